"""Running the program inside a test's process, in a network namespace of the test's.

A forked child that has everything loaded already takes a tenth of the time of a new process, so a
property test can afford hundreds of runs.
"""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from pods import namespace
from proxy_init.cli.main import main
from proxy_init.kernel.legacy.libiptc import load
from proxy_init.rules.model import Family

BOTH = (Family.V4, Family.V6)
both_backends = pytest.mark.parametrize("backend", ["legacy", "nft"], indirect=True)
"""For tests of the kernel: run it, or all of a module, once through each backend."""
with_legacy_tables = pytest.mark.with_legacy_tables
"""Beside `both_backends`: the test is about what legacy tables alone have: rules of others in the
tables that ours are in, counts that iptables-restore sets, libiptc. test_nf_tables.py is about what
nf_tables have instead."""
_KEPT = ("PATH", "XTABLES_LOCKFILE", "PROXY_INIT_BACKEND")


# The kernel makes the local route of a new IPv6 address in its own time (net/ipv6/addrconf.c,
# addrconf_dad_work): what compares routes waits for it, at most 4 s.
UNTIL_ADDRESSES_HAVE_ROUTES = """
for _ in $(seq 200); do
    ip -6 address show dev lo | grep -q 'inet6 ::6/' || break
    ip -6 route show table local | grep -q '^local ::6 ' && break
    sleep 0.02
done
"""


def backend_under_test() -> str:
    """The backend that the test is about, see the fixture `backend`."""
    return os.environ.get("PROXY_INIT_BACKEND", "legacy")


def program(family: Family, kind: str = "") -> str:
    """The name of a program of iptables for the backend that the test is about; kind is empty,
    -save or -restore."""
    return f"ip{'6' if family is Family.V6 else ''}tables-{backend_under_test()}{kind}"


@dataclass(frozen=True)
class Result:
    """What one run gave."""

    status: int
    stdout: str
    stderr: str


@contextmanager
def fresh_namespace() -> Iterator[str]:
    """A network namespace with nothing in it but lo, which is up as in every pod: the kernel takes
    no IPv6 route over an interface that is down."""
    with namespace.namespace("fresh") as name:
        namespace.run(name, ["ip", "link", "set", "lo", "up"]).check_returncode()
        yield name


def run_here(*flags: str, environ: Mapping[str, str] | None = None) -> Result:
    """Run the program in this process; of its variables, only `environ` may say what to do."""
    outside = dict(os.environ), sys.argv
    os.environ.clear()
    kept = {name: outside[0][name] for name in _KEPT if name in outside[0]}
    os.environ.update(kept | dict(environ or {}))
    sys.argv = ["proxy-init", *flags]
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    stderr = io.StringIO()
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            status = main()
    finally:
        os.environ.clear()
        os.environ.update(outside[0])
        sys.argv = outside[1]
    stdout.seek(0)
    return Result(status, stdout.read(), stderr.getvalue())


def run_in(name: str, *flags: str, environ: Mapping[str, str] | None = None) -> Result:
    """Run the program in a network namespace, in a child of this process."""
    load()
    return namespace.call(name, lambda: run_here(*flags, environ=environ), timeout=60)


def saved(name: str, family: Family) -> dict[str, str]:
    """By table, what the system's own program prints of it, with counters zeroed: iptables-save, or
    nft, for which our tables are both families'."""
    if backend_under_test() == "nft":
        return {
            table: our_listing(name, table, family) for table in ("raw", "mangle", "nat", "filter")
        }
    result = namespace.run(name, [program(family, "-save")])
    assert result.returncode == 0, result.stderr
    return by_table(result.stdout)


def our_listing(name: str, table: str, family: Family) -> str:
    """What the program nft prints of our table of that name, without counts, as far as it is for a
    family: its chains by name, those that hold nothing for it left out."""
    words = ["nft", "--stateless", "list", "ruleset", "inet"]
    text = namespace.run(name, words).stdout
    found = re.search(rf"^table inet istio-proxy-{table} {{\n(.*?)^}}\n", text, re.M | re.S)
    chains = []
    for title, content in re.findall(
        r"^\tchain (\S+) {\n(.*?)^\t}\n", found[1] if found else "", re.M | re.S
    ):
        lines = map(str.strip, content.splitlines())
        rules = [line for line in lines if not is_of_other_family(line, family)]
        if [rule for rule in rules if not rule.startswith("type ")]:
            chains.append("\n".join((f"chain {title}", *rules, "")))
    return "".join(sorted(chains))


def is_of_other_family(rule: str, family: Family) -> bool:
    """Whether a rule of a table of both families, as nft lists it, is not for this one."""
    return bool((_OF_IPV6 if family is Family.V4 else _OF_IPV4).search(rule))


_OF_IPV4 = re.compile(r"\bip (saddr|daddr)\b|\bnfproto ipv4\b|\btproxy ip to\b")
_OF_IPV6 = re.compile(r"\bip6 (saddr|daddr)\b|\bnfproto ipv6\b|\btproxy ip6 to\b|\bicmpv6\b")


def by_table(text: str) -> dict[str, str]:
    """iptables-save text by table, without comment lines, with counters zeroed."""
    text = re.sub(r"^#.*\n", "", text, flags=re.M)
    text = re.sub(r"\[\d+:\d+\]$", "[0:0]", text, flags=re.M)
    tables = re.findall(r"^\*\w+\n.*?^COMMIT\n", text, flags=re.M | re.S)
    return {table[1 : table.index("\n")]: table for table in tables}


def with_rules(tables: Mapping[str, str]) -> dict[str, str]:
    """Those tables that hold anything but the kernel's own empty chains."""
    empty = re.compile(r"\*\w+\n(?::[A-Z]+ ACCEPT \[0:0\]\n)*COMMIT\n")
    return {name: text for name, text in tables.items() if text and not empty.fullmatch(text)}


def restored(
    name: str, family: Family, text: str, *options: str, kind: str = ""
) -> subprocess.CompletedProcess[str]:
    """Feed text to iptables-restore in a network namespace, of the backend that the test is about
    or of a `kind` such as nft."""
    command = program(family, "-restore")
    if kind:
        command = command.replace(backend_under_test(), kind)
    return subprocess.run(
        ["ip", "netns", "exec", name, command, *options],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
