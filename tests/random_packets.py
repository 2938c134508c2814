"""Random packets around the values that flags name, and whether a result covers them."""

from collections.abc import Sequence

from hypothesis import assume
from hypothesis import strategies as st

from proxy_init.analysis.packet_sets import CLIENT, POD, SERVER, Journey, point
from proxy_init.analysis.packet_walk import Direction, Packet, PodNetwork
from proxy_init.analysis.prove import Counterexample, Difference
from proxy_init.config.config import Config, settle
from proxy_init.rules.model import Family, Ruleset
from proxy_init.rules.networks import Address
from tests.strategies import Call as Flags
from tests.unit.fakes import FakeMachine, read_on

MACHINE = FakeMachine(files={"/etc/resolv.conf": "nameserver 10.96.0.10\nnameserver fd00::a\n"})


def pod_network_of(ruleset: Ruleset) -> PodNetwork:
    """A pod with these rules."""
    tables = {table.name: table for table in ruleset.tables}
    return PodNetwork(tables, frozenset(), ruleset.routing.policy_route)


def config_of(flags: Flags) -> Config:
    """Random flags, checked."""
    return settle(read_on(MACHINE, *flags.flags, **flags.environ), [])


@st.composite
def packets(draw: st.DrawFn, config: Config, family: Family) -> tuple[Journey, Packet]:
    """A packet about the values that the flags name, and one beside each of them."""

    def numbers(least: int, most: int, *near: int) -> int:
        beside = [each + by for each in near for by in (-1, 0, 1)]
        return draw(st.sampled_from([each for each in beside if least <= each <= most]))

    listed = [config.outbound_networks, config.outbound_excluded_networks, config.dns_servers]
    networks = [n for each in listed if isinstance(each, tuple) for n in each]
    ends = [end for n in networks if n.version == family.value for end in (n[0], n[-1])]
    usual: list[Address] = [SERVER[family], POD[family], CLIENT[family]]
    to = draw(st.sampled_from([*usual, *ends]))
    local, direction = draw(st.booleans()), draw(st.sampled_from(Direction))
    listed_ports = [config.inbound_ports, config.outbound_ports, config.outbound_excluded_ports]
    ports = [p for each in listed_ports if isinstance(each, tuple) for p in each]
    assume(local or not to.is_loopback)
    assume(direction is Direction.OUT or not to.is_loopback)
    names = [n.rstrip("+") or "eth9" for n in (*config.excluded_interfaces, "eth0", "veth7")]
    inside = local and direction is Direction.OUT
    uid = numbers(0, 2**32 - 2, 1000, *config.proxy_uids)
    gid = numbers(0, 2**32 - 2, 1000, *config.proxy_gids, *config.owner_groups_excluded)
    out = direction is Direction.OUT
    packet = Packet(
        direction,
        draw(st.sampled_from(["tcp", "udp"])),
        POD[family] if out else CLIENT[family],
        draw(st.sampled_from([53, 15053, 40000])),
        to,
        numbers(1, 65535, 53, 80, config.tunnel_port, *config.inbound_excluded_ports, *ports),
        "lo" if inside else draw(st.sampled_from([n for n in names if n != "lo"])),
        uid if out else 0,
        gid if out else 0,
    )
    return Journey(family, direction, local), packet


def is_among(
    journey: Journey, packet: Packet, found: Sequence[Counterexample] | Sequence[Difference]
) -> bool:
    """Whether a packet is in one of the sets that were found."""
    return any(
        each.sample.journey == journey
        and all(number in field for number, field in zip(point(packet), box, strict=True))
        for each in found
        for box in each.boxes
    )
