"""`describe` in real namespaces: the flags of any rules, what differs, and what is wrong."""

import json
import shlex
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings

from pods import namespace
from tests.foreign import run
from tests.running import Result, both_backends, fresh_namespace, run_in
from tests.schemas import read_json
from tests.strategies import IN_THE_KERNEL, Call, calls

USUAL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "-d", "15090")
TPROXY = (*USUAL, "-m", "TPROXY", "--no-ipv6")

LEFT = """table inet istio-proxy-nat {
    chain istio-redirect { meta l4proto tcp redirect to :15001; }
    chain output { type nat hook output priority -100; jump istio-redirect; }
}"""


def described(name: str, status: int = 0) -> dict[str, Any]:
    result = run_in(name, "describe", "-O", "json")
    assert result.status == status, (result.stdout, result.stderr)
    found: dict[str, Any] = read_json("describe", result.stdout)
    return found


def sentences(name: str, status: int = 0) -> str:
    return "\n".join(each["says"] for each in described(name, status)["findings"])


def applied(name: str, *flags: str) -> Result:
    result = run_in(name, *flags)
    assert result.status == 0, result.stderr
    return result


@both_backends
@settings(IN_THE_KERNEL, max_examples=20)
@given(call=calls())
def test_the_flags_of_what_was_applied_make_it_again(call: Call) -> None:
    with fresh_namespace() as name:
        assert run_in(name, *call.flags, environ=call.environ).status == 0
        found = described(name)
        if found["flags"] is None:
            assert run_in(name, "status", *call.flags, environ=call.environ).stdout == ""
            return
        assert found["exact"], found
        assert run_in(name, "status", *found["flags"]).stdout == ""
        again = run_in(name, *found["flags"])
        assert "result=unchanged" in again.stderr


def test_where_nothing_is_of_ours_it_says_so(fresh: str) -> None:
    run(fresh, "iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    result = run_in(fresh, "describe")
    assert result.status == 0
    assert result.stdout.startswith("Nothing of ours is here")
    assert described(fresh)["flags"] is None


@both_backends
def test_the_line_to_paste_repairs_what_differs(fresh: str) -> None:
    applied(fresh, *USUAL)
    if run(fresh, "iptables-legacy-save"):
        run(fresh, "iptables-legacy", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")
    else:
        run(fresh, "nft", "flush chain inet istio-proxy-nat output")
    text = run_in(fresh, "describe")
    assert text.status == 3
    assert "missing  IPv4 nat OUTPUT 1: -j ISTIO_OUTPUT" in text.stdout
    assert "outbound traffic: the chain ISTIO_OUTPUT decides" in text.stdout
    [line] = {line.strip() for line in text.stdout.splitlines() if line.startswith("  proxy-init")}
    applied(fresh, *shlex.split(line)[1:])
    assert described(fresh)["exact"]


@pytest.mark.parametrize("flags", [USUAL, TPROXY, (*USUAL[:6], "--ruleset", "1.0")], ids=str)
def test_rules_that_iptables_nft_wrote_have_their_flags(fresh: str, flags: tuple[str, ...]) -> None:
    printed = run_in(fresh, *flags, "--dry-run", "-4")
    restored = subprocess.run(
        ["ip", "netns", "exec", fresh, "iptables-nft-restore"],
        input=printed.stdout,
        text=True,
        check=False,
        capture_output=True,
    )
    assert restored.returncode == 0, restored.stderr
    found = described(fresh, status=3 if flags is TPROXY else 0)
    [tables] = found["found"]
    assert tables["tables"] == "iptables-nft"
    again = run_in(fresh, *found["flags"], "--dry-run", "-4")
    assert again.stdout == printed.stdout
    if flags is TPROXY:
        [difference] = tables["differences"]
        assert difference["kind"] == "missing" and difference["routing"].startswith("ip rule")


def test_rules_in_two_kinds_of_tables_are_both_named(fresh: str) -> None:
    applied(fresh, *USUAL, "--backend", "legacy")
    run(fresh, "nft", LEFT)
    found = described(fresh, status=3)
    assert {each["tables"] for each in found["found"]} == {"legacy", "nf_tables"}
    assert "in the legacy tables and in nf_tables at once" in found["findings"][0]["says"]


def test_what_cannot_be_seen_is_named_with_what_it_takes(fresh: str) -> None:
    applied(fresh, *USUAL)
    unprivileged = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all"]
    words = [*unprivileged, sys.executable, "-m", "proxy_init", "describe", "-O", "json"]
    result = namespace.run(fresh, words)
    assert result.returncode == 4, result.stderr
    unseen = json.loads(result.stdout)["unseen"]
    assert "CAP_NET_ADMIN and CAP_NET_RAW" in unseen[0] and "CAP_NET_ADMIN" in unseen[1]


def test_flags_about_rules_are_refused(fresh: str) -> None:
    result = run_in(fresh, "describe", "-b", "*")
    assert result.status == 2
    assert result.stderr.startswith("proxy-init: -b: expected no flag about rules")
