"""What rules say about outbound networks and ports."""

from collections.abc import Iterator, Sequence

from ....rules.matches import (
    Destination,
    DestinationPort,
    DestinationSet,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
)
from ....rules.model import Family, Rule
from ....rules.networks import Address, Network
from ....rules.targets import RETURN, Goto
from ....rulesets.cidr_tree import LONG
from .reading import (
    EVERYWHERE,
    TO_REDIRECT,
    Choice,
    Reading,
    arriving_on,
    led_port,
    lists,
    per_family,
    ranked,
    returned_port,
    values,
    without,
)


def destinations(reading: Reading) -> Iterator[Sequence[Choice]]:
    """-i, -x, the loopback network, and whether CIDRs are a tree."""
    loopbacks: Sequence[Network | None] = ranked(_loopbacks(reading)) or [None]
    yield [{"ipv4_loopback": each} for each in loopbacks]
    captured: dict[Family, Sequence[tuple[Network, ...]]] = {}
    whole: list[bool] = []
    for family in reading.families:
        excluded, outbound = _networks(reading, family, loopbacks)
        arriving = _captured_on_arrival(reading, family)
        captured[family] = sorted(dict.fromkeys([outbound, *arriving]), key=bool, reverse=True)
        if outbound or any(captured[family]):
            whole.append(outbound == (EVERYWHERE[family],))
        name = per_family("outbound_excluded_networks", family)
        yield [{name: each} for each in excluded]
        name = per_family("outbound_networks", family)
        yield [{name: each} for each in captured[family]]
    everything = bool(whole) and all(whole)
    yield [{"everything": everything}, {"everything": not everything}]
    inside = any(_is_within_the_pod(rule) for rules in reading.output() for rule in rules)
    yield [{"captures_loopback": not inside}, {"captures_loopback": inside}]
    tree = any(
        name.startswith(("ISTIO_EXCLUDED_", "ISTIO_CAPTURED_"))
        for family in reading.families
        for name in reading.present.chain_names(family, "nat")
    )
    is_long = any(len(rules) > LONG for rules in reading.output())
    trees = ("auto", "always") if tree else ("never", "auto") if is_long else ("auto", "never")
    yield [{"cidr_tree": each} for each in trees]


def _loopbacks(reading: Reading) -> Iterator[Network]:
    places = [("mangle", "OUTPUT"), ("mangle", "ISTIO_TPROXY")]
    rules = [rule for table, chain in places for rule in reading.each(table, chain)]
    for rule in (*rules, *(rule for each in reading.output() for rule in each)):
        for match in rule.matches:
            if isinstance(match, Destination) and match.network.version == 4:
                inside = rule.target == RETURN and match.network.is_loopback
                if match.negated or (inside and len(rule.matches) == 1):
                    yield match.network


def _networks(
    reading: Reading, family: Family, loopbacks: Sequence[Network | None]
) -> tuple[Sequence[tuple[Network, ...]], tuple[Network, ...]]:
    """What may be the excluded networks of a family, and the captured ones."""
    own = loopbacks[0] if family is Family.V4 else Network(Address(bytes(15) + b"\1"), 128)
    excluded: list[Network] = []
    captured: list[Network] = []
    for rule in reading.outputs[family]:
        networks = _destinations(rule, family)
        if networks and rule.target == RETURN:
            excluded += networks
        elif networks and rule.target == TO_REDIRECT:
            captured += networks
    if reading.is_old and captured and reading.outputs[family][-1] == Rule((), RETURN):
        excluded.pop()  # the last rule of a list
    elif not reading.is_old and _ends_with_native_groups(reading, family):
        excluded.pop()
    others = without(tuple(excluded), (own,)) if own else tuple(excluded)
    return [*dict.fromkeys([others, tuple(excluded)])], tuple(captured)


def _ends_with_native_groups(reading: Reading, family: Family) -> bool:
    """Whether a RETURN for all packets ends a list of owner groups, and with it the chain."""
    rules = reading.present.rules(family, "nat", "ISTIO_OUTPUT")
    return bool(
        len(rules) > 1
        and rules[-1] == Rule((), RETURN)
        and rules[-2].target == Goto("ISTIO_OWNER_GROUPS")
    )


def _captured_on_arrival(reading: Reading, family: Family) -> Iterator[tuple[Network, ...]]:
    """The networks of the captures that each -k interface has."""
    by_name: dict[str, list[Network]] = {}
    for rule in reading.present.rules(family, "nat", "PREROUTING"):
        if rule.target == TO_REDIRECT:
            networks = [
                network
                for match in rule.matches
                if isinstance(match, Destination | DestinationSet)
                for network in _of_match(match)
            ]
            by_name.setdefault(arriving_on(rule), []).extend(networks or [EVERYWHERE[family]])
    for networks in by_name.values():
        yield tuple(reversed(networks))


def _is_within_the_pod(rule: Rule) -> bool:
    """Whether it lets the application connect to itself over lo."""
    others = [m for m in rule.matches if not isinstance(m, OwnerUid | OwnerGid)]
    shapes = {OutInterface, Protocol, DestinationPort}
    return (
        rule.target == RETURN
        and OutInterface("lo") in rule.matches
        and all(type(match) in shapes for match in others)
    )


def outbound_ports(reading: Reading) -> Iterator[Sequence[Choice]]:
    """-o and -q."""
    if reading.is_old:
        return
    returned = [
        values(rules, returned_port(protocol))
        for rules in reading.output()
        for protocol in ("tcp", "udp")
    ]
    yield [{"outbound_excluded_ports": each} for each in lists(returned)]
    captured = [values(rules, led_port(TO_REDIRECT)) for rules in reading.output()]
    yield [{"outbound_ports": each} for each in lists(captured)]


def _destinations(rule: Rule, family: Family) -> list[Network]:
    """The networks of a rule that asks for the destination, or for nothing."""
    match rule.matches:
        case ():
            return [EVERYWHERE[family]]
        case (Destination(_, False) | DestinationSet() as match,):
            return _of_match(match)
    return []


def _of_match(match: Destination | DestinationSet) -> list[Network]:
    return [match.network] if isinstance(match, Destination) else [*match.networks()]
