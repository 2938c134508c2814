"""A long list of CIDRs as a tree: it decides as the list does, and a packet passes few rules."""

import random
from collections.abc import Sequence
from ipaddress import IPv4Network
from shlex import join

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from proxy_init.analysis.packet_walk import Direction, Packet, PodNetwork, sentence, walk
from proxy_init.rules.matches import Destination
from proxy_init.rules.model import Chain, Family, Ruleset
from proxy_init.rules.networks import Address, Network, network_around, read_address
from proxy_init.rulesets import build, cidr_tree
from tests.unit.conftest import Call
from tests.unit.fakes import bounded, settled

Captured = pytest.CaptureFixture[str]
BITS = {Family.V4: 32, Family.V6: 128}
POD = {Family.V4: read_address("192.0.2.2"), Family.V6: read_address("2001:db8::2")}
both_families = pytest.mark.parametrize("family", Family, ids=lambda family: family.title)


# So narrow are chains in some tests, that few CIDRs make a tree of several levels.
NARROW = 3


def ruleset_of(family: Family, *argv: str, width: int = cidr_tree.WIDTH) -> Ruleset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cidr_tree, "WIDTH", width)
        return build(settled("-u", "1337", "-b", "*", *argv), family)


def pod_network_of(ruleset: Ruleset) -> PodNetwork:
    return PodNetwork({table.name: table for table in ruleset.tables}, frozenset(POD.values()))


def sent(family: Family, destination: Address, port: int = 80) -> Packet:
    return Packet(Direction.OUT, "tcp", POD[family], 40000, destination, port, "eth0")


def address_of(family: Family, number: int) -> Address:
    return Address((number % 2 ** BITS[family]).to_bytes(BITS[family] // 8))


def joined(networks: Sequence[object]) -> str:
    return ",".join(map(str, networks))


def chains_of(ruleset: Ruleset, stem: str) -> list[Chain]:
    return [chain for chain in ruleset.table("nat").chains if chain.name.startswith(f"{stem}_")]


def scattered(family: Family, number: int) -> list[Network]:
    """So many CIDRs, by chance, always the same."""
    chance = random.Random(number)
    bits = BITS[family]
    return [
        network_around(address_of(family, chance.getrandbits(bits)), length)
        for length in chance.choices(range(bits // 2, bits + 1), k=number)
    ]


@st.composite
def networks(draw: DrawFn, family: Family) -> list[Network]:
    """CIDRs of which many overlap, are equal or make up a larger one."""
    bits = BITS[family]
    near = draw(st.integers(0, 2**bits - 1))
    numbers = st.one_of(st.integers(0, 63).map(near.__xor__), st.integers(0, 2**bits - 1))
    lengths = st.one_of(st.integers(bits - 6, bits), st.integers(0, bits))
    return [
        network_around(address_of(family, number), length)
        for number, length in draw(st.lists(st.tuples(numbers, lengths), min_size=1, max_size=30))
    ]


@st.composite
def destinations(draw: DrawFn, family: Family, around: Sequence[Network]) -> Address:
    """Any address, or one inside, at an edge of, or next to a network."""
    bits = BITS[family]
    network = draw(st.sampled_from(around))
    first, last = int(network[0]), int(network[-1])
    edges = st.sampled_from([first - 1, first, first + 1, last - 1, last, last + 1])
    return address_of(
        family, draw(st.one_of(edges, st.integers(first, last), st.integers(0, 2**bits - 1)))
    )


@both_families
@bounded
@given(st.data())
def test_list_and_tree_decide_alike(family: Family, data: st.DataObject) -> None:
    excluded, captured = data.draw(networks(family)), data.draw(networks(family))
    flags = ["--ipv6", "-x", joined(excluded), "-q", "443"]
    flags += ["-i", data.draw(st.sampled_from(["*", joined(captured)]))]
    if family is Family.V4 and data.draw(st.booleans()):
        flags = [*flags[1:3], *flags[5:], "--ruleset", "1.0"]
    listed, tree = (
        pod_network_of(ruleset_of(family, *flags, "--cidr-tree", when, width=NARROW))
        for when in ("never", "always")
    )
    for destination in data.draw(
        st.lists(destinations(family, [*excluded, *captured]), min_size=1, max_size=8)
    ):
        for port in (80, 443):
            packet = sent(family, destination, port)
            assert walk(tree, packet).verdict == walk(listed, packet).verdict


@both_families
@bounded
@given(st.data())
def test_each_chain_of_a_tree_is_short_and_has_its_range(
    family: Family, data: st.DataObject
) -> None:
    listed = joined(data.draw(networks(family)))
    flags = ("--ipv6", "-i", "*", "-x", listed, "--cidr-tree", "always")
    ruleset = ruleset_of(family, *flags, width=NARROW)
    ranges = {
        rule.target.name: rule.matches
        for chain in ruleset.table("nat").chains
        for rule in chain.rules
    }
    for chain in chains_of(ruleset, "ISTIO_EXCLUDED"):
        *rules, last = chain.rules
        assert 2 <= len(rules) <= NARROW
        assert (last.matches, last.target.name) == ((), "ISTIO_NOT_EXCLUDED")
        [within] = ranges[chain.name]
        assert isinstance(within, Destination)
        for rule in rules:
            [match] = rule.matches
            assert isinstance(match, Destination)
            assert match.network.network_address in within.network
            assert match.network.prefixlen >= within.network.prefixlen
            assert match != within


@both_families
def test_a_packet_passes_tens_of_rules_of_ten_thousand(family: Family) -> None:
    listed = scattered(family, 10_000)
    ruleset = ruleset_of(family, "--ipv6", "-i", "*", "-x", joined(listed))
    assert len(ruleset.rules) > 10_000
    chance = random.Random(0)
    inside = [network[0] for network in chance.sample(listed, 100)]
    anywhere = [address_of(family, chance.getrandbits(BITS[family])) for _ in range(100)]
    for destination in (*inside, *anywhere):
        assert len(walk(pod_network_of(ruleset), sent(family, destination)).path) <= 120
    names = [chain.name for chain in ruleset.table("nat").chains]
    assert len(names) == len(set(names)) and max(map(len, names)) <= 28
    assert all(rule.why for rule in ruleset.rules)


@both_families
@pytest.mark.parametrize("flag", ["-x", "-i"])
@pytest.mark.parametrize(
    ("number", "flags", "is_tree"),
    [
        (cidr_tree.LONG, (), False),
        (cidr_tree.LONG + 1, (), True),
        (cidr_tree.LONG + 1, ("--cidr-tree", "never"), False),
        (cidr_tree.LONG, ("--cidr-tree", "always"), True),
        (cidr_tree.WIDTH, ("--cidr-tree", "always"), False),
        (cidr_tree.WIDTH + 1, ("--cidr-tree", "always"), True),
    ],
)
def test_a_long_list_becomes_a_tree(
    family: Family, flag: str, number: int, flags: tuple[str, ...], is_tree: bool
) -> None:
    some = scattered(family, number)
    ruleset = ruleset_of(family, "--ipv6", flag, joined(some), *flags)
    stem = {"-x": "ISTIO_EXCLUDED", "-i": "ISTIO_CAPTURED"}[flag]
    assert bool(chains_of(ruleset, stem)) is is_tree
    if not is_tree:
        output = ruleset.table("nat").chain("ISTIO_OUTPUT")
        assert output is not None
        assert [rule.matches for rule in output.rules][-number:] == [
            (Destination(network),) for network in some
        ]


def test_a_list_that_is_short_after_merging_is_no_tree() -> None:
    doubled = joined([*IPv4Network("10.0.0.0/8").subnets(new_prefix=18)] * 2)
    ruleset = ruleset_of(Family.V4, "-i", "*", "-x", doubled)
    usual = ruleset_of(Family.V4, "-i", "*", "-x", "10.0.0.0/8")
    assert ruleset == usual


def test_the_reason_is_the_cidr_that_decided() -> None:
    some = scattered(Family.V4, 2000)
    pod_network = pod_network_of(ruleset_of(Family.V4, "-i", "*", "-x", joined(some)))
    excluded = next(network for network in some if network.prefixlen == 24)
    for destination, reason in (
        (excluded[7], f"outbound to {excluded} is excluded (-x)."),
        (read_address("192.0.2.77"), "all other outbound traffic is captured (-i)."),
    ):
        packet = sent(Family.V4, destination)
        assert sentence(packet, walk(pod_network, packet)).endswith(reason)


def test_prove_finds_no_difference_between_list_and_tree(call: Call, capsys: Captured) -> None:
    usual = ("-u", "1337", "-b", "*", "-q", "443", "--no-ipv6")
    lists = ("-x", joined(scattered(Family.V4, 40)), "-i", joined(scattered(Family.V4, 41)))
    other = join([*usual, *lists, "--cidr-tree", "never"])
    assert call("prove", *usual, *lists, "--cidr-tree", "always", "--against", other) == 0
    assert "agree on all packets" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_many_cidrs_that_merge_into_few_are_a_list_of_the_few(backend: str) -> None:
    halves = [f"10.{n}.{m}.0/25" for n in range(2) for m in range(256)]
    many = joined([*halves, *(half.replace(".0/25", ".128/25") for half in halves)])
    if backend == "nft":
        many = joined(["10.0.0.0/8", "192.0.2.0/24", *halves])
    ruleset = ruleset_of(Family.V4, "-i", "*", "-x", many, "--backend", backend)
    chain = ruleset.table("nat").chain("ISTIO_OUTPUT")
    assert chain is not None
    found = [str(m.network) for r in chain.rules for m in r.matches if isinstance(m, Destination)]
    few = ["10.0.0.0/15"] if backend == "legacy" else ["10.0.0.0/8", "192.0.2.0/24"]
    assert found[-len(few) :] == few
    assert chains_of(ruleset, "ISTIO_EXCLUDED") == []
