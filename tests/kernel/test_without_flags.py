"""Commands about the rules in the kernel, called without flags: they go by those of the rules."""

import json
import subprocess

import pytest

from tests.foreign import run
from tests.running import Result, both_backends, run_in

FLAGS = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "-d", "15090"),
    *("-x", "10.0.0.0/8", "-o", "9411", "--drop-invalid", "--no-ipv6"),
)
TPROXY = (*FLAGS, "-m", "TPROXY")
either_mode = pytest.mark.parametrize("flags", [FLAGS, TPROXY], ids=["REDIRECT", "TPROXY"])
EXPLAIN = ("explain", "--live", "--to", "10.1.2.3:443")


def called(name: str, *words: str, status: int = 0) -> Result:
    result = run_in(name, *words)
    assert result.status == status, (result.stdout, result.stderr)
    return result


@both_backends
@either_mode
def test_sound_rules_are_sound_without_flags(fresh: str, flags: tuple[str, ...]) -> None:
    called(fresh, *flags)
    status = called(fresh, "status")
    assert status.stdout == ""
    [line] = [line for line in status.stderr.splitlines() if "no flags about rules" in line]
    assert "-x 10.0.0.0/8 -b '*' -d 15090 -o 9411" in line
    counters = json.loads(called(fresh, "counters", "-O", "json").stdout)["rules"]
    assert {each["standing"] for each in counters} == {"wanted"}
    assert all(each["why"] for each in counters)
    explained = json.loads(called(fresh, *EXPLAIN, "-O", "json").stdout)
    assert explained["verdict"] == "direct"
    assert all(each["why"] for each in explained["path"])
    drawn = called(fresh, "graph", "--live").stdout
    assert "not wanted" not in drawn and "missing" not in drawn
    proof, with_flags = (
        json.loads(called(fresh, "prove", "--live", "-O", "json", *words).stdout)
        for words in ((), flags)
    )
    assert proof["holds"] and proof["classes"] == with_flags["classes"]


@both_backends
def test_validate_probes_what_the_rules_are_for(fresh: str) -> None:
    run(fresh, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "node0")
    for name in ("node0", "eth0"):
        run(fresh, "ip", "link", "set", name, "up")
    run(fresh, "ip", "address", "add", "192.0.2.2/24", "dev", "eth0")
    run(fresh, "ip", "route", "add", "default", "via", "192.0.2.1")
    called(fresh, *FLAGS)
    probes = json.loads(called(fresh, "validate", "-O", "json").stdout)["probes"]
    assert {each["result"] for each in probes} == {"passed"}
    assert any(each["to"].startswith("10.") for each in probes)


@both_backends
def test_a_difference_is_still_one_without_flags(fresh: str) -> None:
    called(fresh, *FLAGS)
    if run(fresh, "iptables-legacy-save"):
        run(fresh, "iptables-legacy", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")
    else:
        run(fresh, "nft", "flush chain inet istio-proxy-nat output")
    status = called(fresh, "status", status=3)
    changed = [line for line in status.stdout.splitlines() if line[:2] in ("-A", "+-")]
    assert changed == ["+-A OUTPUT -j ISTIO_OUTPUT"]
    assert "the nearest, since some rules differ" in status.stderr


def test_flags_that_are_given_are_those_that_count(fresh: str) -> None:
    called(fresh, *FLAGS)
    result = called(fresh, "status", "-u", "1337", status=3)
    assert "no flags about rules" not in result.stderr
    by_variable = run_in(fresh, "status", environ={"PROXY_UID": "1337"})
    assert by_variable.stdout == result.stdout


@either_mode
def test_rules_that_iptables_nft_wrote_are_sound_without_flags(
    fresh: str, flags: tuple[str, ...]
) -> None:
    """As Istio's init container leaves them on most nodes."""
    printed = called(fresh, *flags, "--dry-run", "-4").stdout
    words = ["ip", "netns", "exec", fresh, "iptables-nft-restore"]
    subprocess.run(words, input=printed, text=True, check=True, capture_output=True, timeout=30)
    if flags is TPROXY:
        run(fresh, "ip", "rule", "add", "fwmark", "1337", "lookup", "133")
        run(fresh, "ip", "route", "add", "local", "default", "dev", "lo", "table", "133")
    assert called(fresh, "status").stdout == ""
    counters = json.loads(called(fresh, "counters", "-O", "json").stdout)["rules"]
    assert {each["standing"] for each in counters} == {"wanted"}
    explained = json.loads(called(fresh, *EXPLAIN, "-O", "json").stdout)
    assert explained["verdict"] == "direct"
    assert all(each["why"] for each in explained["path"])
    drawn = called(fresh, "graph", "--live").stdout
    assert "not wanted" not in drawn and "missing" not in drawn


def test_where_nothing_is_of_ours_the_defaults_count(fresh: str) -> None:
    result = called(fresh, "status", status=3)
    assert "there are no rules" in result.stderr
