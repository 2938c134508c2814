"""The rule set `current` said once more, as a table, and a small slow reader of it.

It goes from the words of a call to the text that `--dry-run` prints, by strings all the way, and
shares no code with the program: where the two differ, one of them is wrong. The table is there to
be read, line by line, beside docs/rules.md, which says what each rule is for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_interface
from itertools import groupby, product
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

TABLE = """
# Below a heading `*TABLE CHAIN` each line is a rule, as iptables-save spells it:
#
# step | each item of | if all of this holds | rule
#
# Steps that share a number and a list, such as 3a, 3b and 3c, are taken together for each item.
# Of two lists, each item of the first is taken with each of the second. `_facts` says what the
# lists, the conditions and the words in braces stand for. A rule with ^ goes above all that the
# chain holds by then, any other below it.

*raw PREROUTING
1   |        | DNS here         | -j ISTIO_INBOUND

*raw OUTPUT
1   |        | DNS              | -j ISTIO_OUTPUT_DNS

*raw ISTIO_INBOUND
1a  |        | all DNS          | -p udp -m udp --sport 53 -j CT --zone 1
1b  | SERVER | DNS              | -s {SERVER} -p udp -m udp --sport 53 -j CT --zone 1

*raw ISTIO_OUTPUT_DNS
1a  | U      | DNS              | -p udp -m udp --dport 53 -m owner --uid-owner {U} -j CT --zone 1
1b  | U      | DNS              | -p udp -m udp --sport 15053 -m owner --uid-owner {U} \
                                  -j CT --zone 2
2a  | G      | DNS              | -p udp -m udp --dport 53 -m owner --gid-owner {G} -j CT --zone 1
2b  | G      | DNS              | -p udp -m udp --sport 15053 -m owner --gid-owner {G} \
                                  -j CT --zone 2
3a  |        | all DNS          | -p udp -m udp --dport 53 -j CT --zone 2
3b  | SERVER | DNS              | -d {SERVER} -p udp -m udp --dport 53 -j CT --zone 2

*mangle PREROUTING
1   | C      | TPROXY           | -i {C} -j RETURN
2   |        | --drop-invalid   | -m conntrack --ctstate INVALID -j ISTIO_DROP
3   |        | TPROXY, -b       | -p tcp -j ISTIO_INBOUND
4   |        | TPROXY           | -p tcp -m mark --mark {M} \
                                  -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff

*mangle OUTPUT
1   | C      | TPROXY           | -o {C} -j RETURN
2   |        | TPROXY           | -o lo -p tcp -m mark --mark {M} -j RETURN
3   | U      | TPROXY           | ! -d {LO} -o lo -p tcp -m owner --uid-owner {U} \
                                  -j MARK --set-xmark 0x53a/0xffffffff
4   | G      | TPROXY           | ! -d {LO} -o lo -p tcp -m owner --gid-owner {G} \
                                  -j MARK --set-xmark 0x53a/0xffffffff
5   |        | TPROXY           | -p tcp -m connmark --mark {M} \
                                  -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff

*mangle ISTIO_DIVERT
1   |        | TPROXY, -b       | -j MARK --set-xmark {M}/0xffffffff
2   |        | TPROXY, -b       | -j ACCEPT

*mangle ISTIO_DROP
1   |        | --drop-invalid   | -j DROP

*mangle ISTIO_INBOUND
1   |        | TPROXY           | -p tcp -m mark --mark {M} -j RETURN
2   |        | TPROXY           | -s {PASS} -i lo -p tcp -j RETURN
3   |        | TPROXY           | -i lo -p tcp -m mark ! --mark 0x53a -j RETURN
4   | D      | TPROXY, -b *     | -p tcp -m tcp --dport {D} -j RETURN
5   |        | TPROXY, -b *     | -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
6   |        | TPROXY, -b *     | -p tcp -j ISTIO_TPROXY
7a  | B      | TPROXY           | -p tcp -m tcp --dport {B} \
                                  -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
7b  | B      | TPROXY           | -p tcp -m tcp --dport {B} -j ISTIO_TPROXY

*mangle ISTIO_TPROXY
1   |        | TPROXY, -b       | ! -d {LO} -p tcp \
                                  -j TPROXY --on-port {Z} --on-ip {ANY} --tproxy-mark {M}/0xffffffff

*nat PREROUTING
1   | C      |                  | -i {C} -j RETURN
2   | K      |                  | ^ -i {K} -j RETURN
3   | K      | -i *             | ^ -i {K} -j ISTIO_REDIRECT
4   | I K    |                  | ^ -d {I} -i {K} -j ISTIO_REDIRECT
5   |        | REDIRECT, -b     | -p tcp -j ISTIO_INBOUND

*nat OUTPUT
1   | C      |                  | -o {C} -j RETURN
2   |        |                  | -j ISTIO_OUTPUT

*nat ISTIO_INBOUND
1   |        |                  | -p tcp -m tcp --dport {E} -j RETURN
2   | D      | REDIRECT, -b *   | -p tcp -m tcp --dport {D} -j RETURN
3   |        | REDIRECT, -b *   | -p tcp -j ISTIO_IN_REDIRECT
4   | B      | REDIRECT         | -p tcp -m tcp --dport {B} -j ISTIO_IN_REDIRECT

*nat ISTIO_REDIRECT
1   |        |                  | -p tcp -j REDIRECT --to-ports {P}

*nat ISTIO_IN_REDIRECT
1   |        |                  | -p tcp -j REDIRECT --to-ports {Z}

*nat ISTIO_OUTPUT
1a  | O      |                  | -p tcp -m tcp --dport {O} -j RETURN
1b  | O      |                  | -p udp -m udp --dport {O} -j RETURN
2   |        |                  | -s {PASS} -o lo -j RETURN
3a  | U      | no DNS           | ! -d {LO} -o lo -p tcp -m tcp ! --dport {E} \
                                  -m owner --uid-owner {U} -j ISTIO_IN_REDIRECT
3a  | U      | DNS              | ! -d {LO} -o lo -p tcp -m multiport ! --dports 53,{E} \
                                  -m owner --uid-owner {U} -j ISTIO_IN_REDIRECT
3b  | U      | no -i lo, no DNS | -o lo -m owner ! --uid-owner {U} -j RETURN
3b  | U      | no -i lo, DNS    | -o lo -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner {U} \
                                  -j RETURN
3c  | U      |                  | -m owner --uid-owner {U} -j RETURN
4a  | G      |                  | ! -d {LO} -o lo -p tcp -m tcp ! --dport {E} \
                                  -m owner --gid-owner {G} -j ISTIO_IN_REDIRECT
4b  | G      | no -i lo, no DNS | -o lo -m owner ! --gid-owner {G} -j RETURN
4b  | G      | no -i lo, DNS    | -o lo -p tcp -m tcp ! --dport 53 -m owner ! --gid-owner {G} \
                                  -j RETURN
4c  | G      |                  | -m owner --gid-owner {G} -j RETURN
5a  | OUT    |                  | -m owner --gid-owner {OUT} -j RETURN
5b  |        | groups           | {GROUPS} -j RETURN
6   |        | DNS here         | -j ISTIO_OUTPUT_DNS
7   |        |                  | -d {LO} -j RETURN
8   | X      |                  | -d {X} -j RETURN
9   | Q      |                  | -p tcp -m tcp --dport {Q} -j ISTIO_REDIRECT
10a |        | -i *             | -j ISTIO_REDIRECT
10b | I      |                  | -d {I} -j ISTIO_REDIRECT

*nat ISTIO_OUTPUT_DNS
1a  |        | all DNS          | -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053
1b  | SERVER | DNS              | -d {SERVER} -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053
2a  |        | all DNS          | -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
2b  | SERVER | DNS              | -d {SERVER} -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053

*routing comments
1   |        | TPROXY, -b       | # {IP} rule add fwmark {M} lookup {T}
2   |        | TPROXY, -b       | # {IP} route add local default dev lo table {T}
3   |        | IPv6             | # {IP} address add ::6/128 dev lo
"""

BUILT_IN = {
    "raw": ["PREROUTING", "OUTPUT"],
    "mangle": ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    "nat": ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
}
"""The tables in the order in which they are printed, and what the kernel's own chains are."""

FLAGS = """
-p --envoy-port                          ENVOY_PORT                          15001
-z --inbound-capture-port                INBOUND_CAPTURE_PORT
-e --inbound-tunnel-port                 INBOUND_TUNNEL_PORT                 15008
-u --proxy-uid                           PROXY_UID
-g --proxy-gid                           PROXY_GID
-m --istio-inbound-interception-mode     ISTIO_INBOUND_INTERCEPTION_MODE     REDIRECT
-b --istio-inbound-ports                 ISTIO_INBOUND_PORTS
-d --istio-local-exclude-ports           ISTIO_LOCAL_EXCLUDE_PORTS
-i --istio-service-cidr                  ISTIO_SERVICE_CIDR
-x --istio-service-exclude-cidr          ISTIO_SERVICE_EXCLUDE_CIDR
-q --istio-outbound-ports                ISTIO_OUTBOUND_PORTS
-o --istio-local-outbound-ports-exclude  ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE
-c --istio-exclude-interfaces            ISTIO_EXCLUDE_INTERFACES
-k --kube-virt-interfaces                KUBE_VIRT_INTERFACES
-t --istio-inbound-tproxy-mark           ISTIO_INBOUND_TPROXY_MARK           1337
-r --istio-inbound-tproxy-route-table    ISTIO_INBOUND_TPROXY_ROUTE_TABLE    133
"""
"""Flags with a value, each with its variable and, where it is a plain word, its default."""

SWITCHES = """
-4
-6
--ipv6              ENABLE_INBOUND_IPV6
--dual-stack        DUAL_STACK ISTIO_DUAL_STACK
--redirect-dns      REDIRECT_DNS ISTIO_META_DNS_CAPTURE
--capture-all-dns   CAPTURE_ALL_DNS
--drop-invalid      DROP_INVALID INVALID_DROP
"""
"""Flags without a value, each with its variables."""


@dataclass(frozen=True)
class Pod:
    """What a call looks at besides its words: a file, the container's users and groups, and the
    addresses of more than link scope, IPv4 first."""

    resolv_conf: str = ""
    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    addresses: Sequence[str] = ()


class Row(NamedTuple):
    """One rule of the table."""

    table: str
    chain: str
    step: str
    each: str
    conditions: str
    rule: str


def rows() -> list[Row]:
    """The rules of the table."""
    found = []
    heading = ["", ""]
    for line in lines(TABLE):
        if line.startswith("*"):
            heading = line.removeprefix("*").split()
        else:
            found.append(Row(*heading, *(" ".join(cell.split()) for cell in line.split("|"))))
    return found


def restated(
    table: Sequence[Row], words: Sequence[str], environ: Mapping[str, str], pod: Pod
) -> str:
    """What a dry run of a call prints, by the rows of `table`."""
    given = _given(words, environ)
    families = [4] if _on(given["-4"]) else [6] if _on(given["-6"]) else [4, 6]
    text = ""
    for family in families:
        text += f"# IPv{family}\n"
        if given["-m"] != "NONE" and (family == 4 or _ipv6_is_on(given, pod)):
            text += _text(_chains(table, _facts(given, environ, pod, family)))
    return text


class _Facts(NamedTuple):
    """What one family's rules depend on."""

    values: dict[str, str]
    lists: dict[str, list[str]]
    holds: dict[str, bool]


def _facts(given: Mapping[str, str], environ: Mapping[str, str], pod: Pod, family: int) -> _Facts:
    proxy = pod.users.get(environ.get("ENVOY_USER") or "istio-proxy", 1337)
    uids = _ids(given["-u"], pod.users) or [str(proxy)]
    # Without -g, a name of -u says the group of that name, where there is one.
    gids = _ids(given["-g"], pod.groups) or _ids(given["-u"], {**pod.users, **pod.groups}) or uids
    captured = [] if given["-i"] == "*" else [_cidr(item) for item in _items(given["-i"])]
    excluded = [_cidr(item) for item in _items(given["-x"])]
    groups = _items(environ.get("ISTIO_OUTBOUND_OWNER_GROUPS", ""))
    loopback = _cidr(environ.get("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR") or "127.0.0.1/32")
    all_dns = _on(given["--redirect-dns"]) and _on(given["--capture-all-dns"])
    some_dns = _on(given["--redirect-dns"]) and not all_dns
    servers = _name_servers(pod.resolv_conf) if some_dns else []
    servers_here = _networks(servers, family)
    return _Facts(
        values={
            "P": given["-p"],
            "Z": given["-z"] or given["-p"],
            "E": given["-e"],
            "M": hex(int(given["-t"], 0)),
            "T": given["-r"],
            "LO": _networks([loopback], 4)[0] if family == 4 else "::1/128",
            "PASS": "127.0.0.6/32" if family == 4 else "::6/128",
            "ANY": "0.0.0.0" if family == 4 else "::",
            "IP": "ip" if family == 4 else "ip -6",
            "GROUPS": " ".join(f"-m owner ! --gid-owner {group}" for group in groups),
        },
        lists={
            "U": uids,
            "G": gids,
            "B": [] if given["-b"] == "*" else _ports(given["-b"]),
            "D": _ports(given["-d"]),
            "I": _networks(captured, family),
            "X": _networks(excluded, family),
            "Q": _ports(given["-q"]),
            "O": _ports(given["-o"]),
            "C": _items(given["-c"]),
            "K": _items(given["-k"]),
            "OUT": _items(environ.get("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "")),
            "SERVER": servers_here,
        },
        holds={
            "": True,
            "REDIRECT": given["-m"] == "REDIRECT",
            "TPROXY": given["-m"] == "TPROXY",
            "IPv6": family == 6,
            "-b": _items(given["-b"]) != [],
            "-b *": given["-b"] == "*",
            "-i *": given["-i"] == "*",
            "no -i lo": not any(map(_is_loopback, captured)),
            "groups": groups not in ([], ["*"]),
            "DNS": all_dns or servers != [],
            "no DNS": not all_dns and servers == [],
            "all DNS": all_dns,
            "DNS here": all_dns or servers_here != [],
            "--drop-invalid": _on(given["--drop-invalid"]),
        },
    )


def _ipv6_is_on(given: Mapping[str, str], pod: Pod) -> bool:
    if given["--ipv6"]:
        return _on(given["--ipv6"])
    counting = pod.addresses if _on(given["--dual-stack"]) else pod.addresses[:1]
    return any(ip_address(address).version == 6 for address in counting)


def _chains(table: Sequence[Row], facts: _Facts) -> dict[tuple[str, str], list[str]]:
    """The rules by table and chain."""
    chains: dict[tuple[str, str], list[str]] = {}
    for _, step in groupby(table, lambda row: (*row[:2], row.step.rstrip("abc"), row.each)):
        together = list(step)
        names = together[0].each.split()
        for items in product(*(facts.lists[name] for name in names)):
            words = {**facts.values, **dict(zip(names, items, strict=True))}
            for row in together:
                if all(facts.holds[condition] for condition in row.conditions.split(", ")):
                    chain = chains.setdefault((row.table, row.chain), [])
                    place = 0 if row.rule.startswith("^ ") else len(chain)
                    chain.insert(place, _as_saved(row.rule.removeprefix("^ ").format_map(words)))
    return chains


def _as_saved(rule: str) -> str:
    """The rule without what every packet passes, which the kernel does not keep."""
    return re.sub(r"(?<!\S)(-d (0\.0\.0\.0|::)/0|-[io] \+) ", "", rule)


def _text(chains: Mapping[tuple[str, str], list[str]]) -> str:
    """The text of one family: the tables that hold a rule, each chain that does, the comments."""
    text = []
    for table, built_in in BUILT_IN.items():
        ours = {chain for of, chain in chains if of == table}
        own = sorted(ours.difference(built_in))
        if ours:
            text.append(f"*{table}")
            text.extend(f":{chain} ACCEPT [0:0]" for chain in built_in)
            text.extend(f":{chain} - [0:0]" for chain in own)
            for chain in built_in + own:
                text.extend(f"-A {chain} {rule}" for rule in chains.get((table, chain), []))
            text.append("COMMIT")
    text.extend(chains.get(("routing", "comments"), []))
    return "".join(f"{line}\n" for line in text)


# Reading a call.


def _given(words: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What a call says, by the first spelling of each flag: a flag beats its variables, of which
    the last beats the first. An empty flag says the default, an empty variable nothing."""
    given: dict[str, str] = {}
    default: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for line in lines(FLAGS):
        short, long, variable, *rest = line.split()
        spelled |= {short: short, long: short}
        default[short] = "".join(rest)
        given[short] = environ.get(variable, "").strip() or default[short]
    for line in lines(SWITCHES):
        switch, *variables = line.split()
        given[switch] = ""
        for variable in variables:
            given[switch] = environ.get(variable, "") or given[switch]
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag in spelled:
            value = value if equals else rest.pop(0)
            given[spelled[flag]] = value.strip() or default[spelled[flag]]
        elif flag == "--no-ipv6":
            given["--ipv6"] = "false"
        else:
            given[flag] = value or "true"
    return given


def lines(text: str) -> list[str]:
    """The lines of a table of this file, without its comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _on(text: str) -> bool:
    return text.lower() in ("1", "t", "true", "yes", "on", "all")


def _items(text: str) -> list[str]:
    """The items of a comma list; blanks around them and empty ones do not count."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _ports(text: str) -> list[str]:
    return [str(int(item)) for item in _items(text)]


def _ids(text: str, known: Mapping[str, int]) -> list[str]:
    return [str(known.get(item, item)) for item in _items(text)]


def _cidr(text: str) -> IPv4Interface | IPv6Interface:
    """An address with the length of its network; what lies in ::ffff:0:0/96 counts as IPv4."""
    cidr = ip_interface(text)
    if (mapped := _mapped(cidr)) and cidr.network.prefixlen >= 96:
        return IPv4Interface((mapped, cidr.network.prefixlen - 96))
    return cidr


def _is_loopback(cidr: IPv4Interface | IPv6Interface) -> bool:
    """Whether the address, as it was written, is one of the loopback's."""
    return (_mapped(cidr) or cidr.ip).is_loopback


def _mapped(cidr: IPv4Interface | IPv6Interface) -> IPv4Address | None:
    return cidr.ip.ipv4_mapped if isinstance(cidr, IPv6Interface) else None


def _networks(cidrs: Sequence[IPv4Interface | IPv6Interface], family: int) -> list[str]:
    """Those of one family, host bits masked off, spelled as the C library spells addresses."""
    kind = AF_INET if family == 4 else AF_INET6
    return [
        f"{inet_ntop(kind, cidr.network.network_address.packed)}/{cidr.network.prefixlen}"
        for cidr in cidrs
        if cidr.version == family
    ]


def _name_servers(text: str) -> list[IPv4Interface | IPv6Interface]:
    """The servers of a resolv.conf, man 5 resolv.conf: plain addresses, others do not count."""
    servers = []
    for line in text.split("\n"):
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1 and _is_address(words[1]):
            servers.append(_cidr(words[1]))
    return servers


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return "%" not in word
