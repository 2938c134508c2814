"""Rules of others beside ours, with packet counts, and what the kernel holds down to the counts."""

import re
from collections.abc import Mapping
from pathlib import Path

from pods import namespace
from proxy_init.rules.model import Family
from tests.running import (
    BOTH,
    UNTIL_ADDRESSES_HAVE_ROUTES,
    backend_under_test,
    by_table,
    program,
)

# Policies, chains, jumps, gotos, an extension that we do not know, rules that look like ours.
_FOREIGN = """\
*mangle
:PREROUTING ACCEPT [11:660]
:INPUT ACCEPT [0:0]
:FORWARD DROP [12:720]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[13:780] -A PREROUTING -m conntrack --ctstate INVALID -j DROP
[14:840] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*nat
:PREROUTING ACCEPT [3:180]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [4:240]
:POSTROUTING ACCEPT [0:0]
:A_CHAIN - [0:0]
:Z_CHAIN - [0:0]
[5:300] -A PREROUTING -i eth9 -j RETURN
[6:360] -A PREROUTING -p tcp -m tcp --dport 2222 -g Z_CHAIN
[7:420] -A PREROUTING -j A_CHAIN
[8:480] -A OUTPUT -m statistic --mode random --probability 0.50000000000 -j RETURN
[9:540] -A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN
[10:600] -A POSTROUTING -o eth0 -j MASQUERADE
[1:60] -A A_CHAIN -p udp -m udp --dport 53 -m comment --comment "it's \\"theirs\\"" -j RETURN
[2:120] -A Z_CHAIN -p tcp -j REDIRECT --to-ports 2200-2300
COMMIT
*filter
:INPUT DROP [15:900]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[16:960] -A INPUT -i lo -j ACCEPT
COMMIT
"""
_BEHIND = ("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-c", "17", "1020", "-j", "A_CHAIN")
_ABOVE = ("-t", "nat", "-I", "OUTPUT", "-d", "{address}", "-c", "18", "1080", "-j", "RETURN")


def plant(name: str, directory: Path) -> None:
    """Fill both families' tables of a namespace with foreign rules."""
    for family in BOTH:
        load(name, family, _FOREIGN, directory)


def surround(name: str) -> None:
    """Put one more foreign rule behind all others in nat PREROUTING, and one above in OUTPUT."""
    for family, address in zip(BOTH, ("10.9.9.9/32", "fd00:9::9/128"), strict=True):
        for words in (_BEHIND, _ABOVE):
            run(name, program(family), *(word.format(address=address) for word in words))


def load(name: str, family: Family, text: str, directory: Path) -> None:
    """Let iptables-restore put text into the tables that it names, with its counts."""
    file = directory / f"{family.title}.rules"
    file.write_text(text)
    run(name, program(family, "-restore"), "--counters", str(file))


def run(name: str, *args: str) -> str:
    """Run a program in a namespace; it must succeed."""
    result = namespace.run(name, args)
    assert result.returncode == 0, result.stderr
    return result.stdout


def counted(name: str) -> dict[Family, str]:
    """What iptables-save prints of each family, with all counts, and nft of our own tables."""
    native = dict.fromkeys(BOTH, "")
    if backend_under_test() == "nft":
        tables = run(name, "nft", "list", "ruleset", "inet")
        native = dict.fromkeys(BOTH, tables)
    return {
        family: re.sub(r"^#.*\n", "", run(name, program(family, "-save"), "-c"), flags=re.M)
        + native[family]
        for family in BOTH
    }


def whole(name: str) -> str:
    """All that a change of ours could touch, with all counts, as other programs print it."""
    commands = f"""{UNTIL_ADDRESSES_HAVE_ROUTES}
        {program(Family.V4, "-save")} -c; {program(Family.V6, "-save")} -c; ip address
        ip rule; ip route show table all; ip -6 rule; ip -6 route show table all
    """
    text = re.sub(r"^#.*\n", "", run(name, "sh", "-euc", commands), flags=re.M)
    return text + nf_tables(name)


def nf_tables(name: str) -> str:
    """All that the program nft lists. What was put back stands behind what was there: so tables are
    in the order of their names, and chains too."""
    listed = run(name, "nft", "list", "ruleset")
    tables = re.findall(r"^(table .*?\n)(.*?)^}\n", listed, flags=re.M | re.S)
    return "".join(
        title + "".join(sorted(re.findall(r"^\t\S.*?^\t}\n", content, flags=re.M | re.S)))
        for title, content in sorted(tables)
    )


def without_priorities(text: str) -> str:
    """What `whole` gives, without those of policy rules: of several copies any may stay."""
    return re.sub(r"^\d+:\tfrom", "from", text, flags=re.M)


def foreign_in(tables: Mapping[Family, str]) -> dict[Family, str]:
    """What is left of `counted` without our own tables and the lines that name a chain of ours."""
    own_tables = re.compile(r"^table inet istio-proxy-.*?^}\n", flags=re.M | re.S)
    return {
        family: "".join(
            line for line in own_tables.sub("", text).splitlines(True) if "ISTIO_" not in line
        )
        for family, text in tables.items()
    }


def with_counts(tables: Mapping[Family, str], packets: int) -> dict[Family, str]:
    """The same as `counted`, but each rule that names a chain of ours has seen packets."""
    ours = re.compile(r"^\[\d+:\d+\](?= -A .*ISTIO_)", flags=re.M)
    return {
        family: ours.sub(f"[{packets}:{60 * packets}]", text) for family, text in tables.items()
    }


def tables_made(name: str) -> dict[Family, list[str]]:
    """The tables that the namespace has, through either backend; none, where nobody has looked at
    any."""

    def look() -> dict[Family, list[str]]:
        return {
            family: Path(f"/proc/self/net/{prefix}_tables_names").read_text().split()
            for family, prefix in zip(BOTH, ("ip", "ip6"), strict=True)
        }

    made = namespace.call(name, look)
    for family, prefix in zip(BOTH, ("ip", "ip6"), strict=True):
        made[family] += by_table(run(name, f"{prefix}tables-nft-save"))
        made[family] += run(name, "nft", "list", "tables", "inet").split("\n")[:-1]
    return made


NONE_MADE: Mapping[Family, list[str]] = {Family.V4: [], Family.V6: []}
