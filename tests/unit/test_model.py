"""Matches and targets: one spelling, both ways, and nothing lost of what we do not know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_init.rules.matches import (
    Comment,
    ConntrackState,
    Destination,
    DestinationPort,
    DestinationPorts,
    ExtensionMatch,
    InInterface,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Source,
    UnknownMatch,
    read_match,
)
from proxy_init.rules.model import Chain, Family, Rule, Ruleset, Table
from proxy_init.rules.networks import read_network
from proxy_init.rules.options import Option
from proxy_init.rules.targets import DROP, RETURN, Redirect, UnknownTarget, read_target

from .fakes import bounded

KNOWN_MATCHES = [
    ("tcp", [Option("dport", "80")], DestinationPort("tcp", 80)),
    ("udp", [Option("dport", "53", negated=True)], DestinationPort("udp", 53, negated=True)),
    ("multiport", [Option("dports", "53,15008")], DestinationPorts((53, 15008))),
    ("multiport", [Option("dports", "1", True)], DestinationPorts((1,), negated=True)),
    ("owner", [Option("uid-owner", "0")], OwnerUid(0)),
    ("owner", [Option("uid-owner", "1337", True)], OwnerUid(1337, negated=True)),
    ("owner", [Option("gid-owner", "4294967294")], OwnerGid(4294967294)),
    ("owner", [Option("gid-owner", "5", True)], OwnerGid(5, negated=True)),
    ("conntrack", [Option("ctstate", "INVALID")], ConntrackState(("INVALID",))),
    (
        "conntrack",
        [Option("ctstate", "RELATED,ESTABLISHED")],
        ConntrackState(("RELATED", "ESTABLISHED")),
    ),
    ("comment", [Option("comment", 'say "hi"')], Comment('say "hi"')),
]
UNKNOWN_MATCHES = [
    ("tcp", [Option("dport", "80:90")]),
    ("tcp", [Option("dport", "080")]),
    ("tcp", [Option("dport", "0x50")]),
    ("tcp", [Option("sport", "1:80")]),
    ("tcp", [Option("dport", "80"), Option("sport", "1:1023")]),
    ("tcp", [Option("tcp-flags", "SYN,RST SYN")]),
    ("sctp", [Option("dport", "80")]),
    ("multiport", [Option("dports", "80:90,443")]),
    ("multiport", [Option("ports", "80,443")]),
    ("owner", [Option("uid-owner", "1000-2000")]),
    ("owner", [Option("uid-owner", "5"), Option("gid-owner", "5")]),
    ("owner", [Option("socket-exists")]),
    ("conntrack", [Option("ctstate", "INVALID", negated=True)]),
    ("conntrack", [Option("ctstate", "NEW"), Option("ctproto", "6")]),
    ("mark", [Option("mark", "0x539/0xfff")]),
    ("comment", []),
    ("addrtype", [Option("dst-type", "LOCAL")]),
]
UNKNOWN_TARGETS = [
    ("REDIRECT", [Option("to-ports", "80-90")]),
    ("REDIRECT", [Option("to-ports", "80"), Option("random")]),
    ("REDIRECT", []),
    ("DNAT", [Option("to-destination", "10.0.0.1:80")]),
    ("MARK", [Option("set-xmark", "0x1/0xff")]),
    ("MASQUERADE", []),
]


def spelled(row: tuple[str, list[Option]] | tuple[str, list[Option], object]) -> str:
    options = " ".join(f"{'!' * o.negated}{o.name}={o.value}" for o in row[1])
    return f"{row[0]} {options}"


@pytest.mark.parametrize(
    ("name", "options", "match"), KNOWN_MATCHES, ids=map(spelled, KNOWN_MATCHES)
)
def test_a_known_match_is_read_and_spelled_alike(
    name: str, options: list[Option], match: ExtensionMatch
) -> None:
    assert read_match(name, options) == match
    assert (match.name, list(match.options())) == (name, options)


@pytest.mark.parametrize(("name", "options"), UNKNOWN_MATCHES, ids=map(spelled, UNKNOWN_MATCHES))
def test_an_unknown_use_of_a_match_keeps_its_spelling(name: str, options: list[Option]) -> None:
    assert read_match(name, options) == UnknownMatch(name, tuple(options))


def test_a_known_target_is_read_and_spelled_alike() -> None:
    options = (Option("to-ports", "15001"),)
    assert read_target("REDIRECT", options) == Redirect(15001)
    assert Redirect(15001).options() == options


@pytest.mark.parametrize(("name", "options"), UNKNOWN_TARGETS, ids=map(spelled, UNKNOWN_TARGETS))
def test_an_unknown_use_of_a_target_keeps_its_spelling(name: str, options: list[Option]) -> None:
    assert read_target(name, options) == UnknownTarget(name, tuple(options))


numbers = st.integers(0, 2**32 - 1)
ports = st.integers(0, 65535)
matches = st.one_of(
    st.builds(DestinationPort, st.sampled_from(["tcp", "udp"]), ports, st.booleans()),
    st.builds(DestinationPorts, st.lists(ports, min_size=1).map(tuple), st.booleans()),
    st.builds(OwnerUid, numbers, st.booleans()),
    st.builds(OwnerGid, numbers, st.booleans()),
    st.builds(
        ConntrackState,
        st.lists(st.sampled_from(["INVALID", "NEW", "RELATED"]), min_size=1).map(tuple),
    ),
    st.builds(Comment, st.text()),
)
options = st.builds(
    Option,
    st.sampled_from(["dport", "dports", "uid-owner", "gid-owner", "ctstate", "comment", "to-ports"])
    | st.text(),
    st.from_regex(r"[0-9]{1,6}([:,/-][0-9]{1,6})?", fullmatch=True) | st.text(),
    st.booleans(),
)
names = st.sampled_from(["tcp", "udp", "multiport", "owner", "conntrack", "comment", "REDIRECT"])


@bounded
@given(matches)
def test_what_a_match_spells_is_read_as_that_match(match: ExtensionMatch) -> None:
    assert read_match(match.name, match.options()) == match


@bounded
@given(names | st.text(), st.lists(options, max_size=3))
def test_every_spelling_is_kept(name: str, spelling: list[Option]) -> None:
    match, target = read_match(name, spelling), read_target(name, spelling)
    assert (match.name, list(match.options())) == (name, spelling)
    assert (target.name, list(target.options())) == (name, spelling)


@pytest.mark.parametrize(
    "match",
    [
        Destination(read_network("0.0.0.0/0")),
        Destination(read_network("::/0")),
        Source(read_network("0.0.0.0/0")),
        InInterface("+"),
        OutInterface("+"),
    ],
    ids=str,
)
def test_a_match_that_every_packet_passes_is_dropped(match: Destination) -> None:
    assert Rule((match, Protocol("tcp")), RETURN) == Rule((Protocol("tcp"),), RETURN)


@pytest.mark.parametrize(
    "match",
    [
        Destination(read_network("0.0.0.0/0"), negated=True),
        Destination(read_network("0.0.0.0/1")),
        InInterface("+", negated=True),
        OutInterface("e+"),
    ],
    ids=str,
)
def test_a_match_that_some_packet_fails_stays(match: Destination) -> None:
    assert Rule((match,), RETURN).matches == (match,)


def test_two_rules_are_the_same_whatever_their_reasons() -> None:
    assert Rule((), DROP, "one reason") == Rule((), DROP, "another")
    assert Rule((), DROP, "one reason") != Rule((), RETURN, "one reason")


def test_a_table_that_holds_nothing_of_ours_is_empty() -> None:
    table = Table("nat", (Chain("OUTPUT", (Rule((), RETURN),)),))
    ruleset = Ruleset(Family.V4, (table,))
    assert ruleset.table("nat") is table
    assert ruleset.table("raw") == Table("raw", ())
    assert ruleset.rules == (Rule((), RETURN),)
