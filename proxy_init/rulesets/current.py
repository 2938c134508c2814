"""The rule set `current`: what today's sidecars expect.

Read a chain's function from top to bottom: it yields the rules in the order in which the kernel
tries them. Every rule says why it is there.
"""

from collections.abc import Callable, Iterable, Iterator

from ..config import EVERYTHING, Config
from ..model import (
    DROP,
    RETURN,
    Chain,
    ConntrackState,
    Destination,
    DestinationPort,
    Family,
    InInterface,
    Jump,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    Rule,
    Ruleset,
    Source,
    Table,
)

TCP, UDP = Protocol("tcp"), Protocol("udp")
LOOPBACK_INTERFACE = OutInterface("lo")

REDIRECT = Jump("ISTIO_REDIRECT")
IN_REDIRECT = Jump("ISTIO_IN_REDIRECT")
INBOUND = Jump("ISTIO_INBOUND")
OUTPUT = Jump("ISTIO_OUTPUT")
DROP_INVALID = Jump("ISTIO_DROP")


def build(config: Config, family: Family) -> Ruleset:
    """All that `family` must hold of ours under `config`."""
    return Ruleset(family, tuple(_tables(config, family)))


def _tables(config: Config, family: Family) -> Iterator[Table]:
    if config.drop_invalid:
        yield _table(
            "mangle",
            PREROUTING=mangle_prerouting(),
            ISTIO_DROP=[Rule((), DROP, "connection tracking cannot place this packet")],
        )
    top = tuple(nat_prerouting_top(config, family))
    yield _table(
        "nat",
        top=len(top),
        PREROUTING=(*top, *nat_prerouting(config)),
        OUTPUT=nat_output(config),
        ISTIO_INBOUND=nat_inbound(config),
        ISTIO_IN_REDIRECT=[
            Rule(
                (TCP,),
                Redirect(config.inbound_port),
                f"captured: to the port {config.inbound_port} where the proxy takes inbound TCP",
            )
        ],
        ISTIO_OUTPUT=istio_output(config, family),
        ISTIO_REDIRECT=[
            Rule(
                (TCP,),
                Redirect(config.outbound_port),
                f"captured: to the port {config.outbound_port} where the proxy takes outbound TCP",
            )
        ],
    )


def _table(name: str, *, top: int = 0, **chains: Iterable[Rule]) -> Table:
    """A table of the chains that hold a rule; `top` rules of PREROUTING go above foreign ones."""
    held = ((chain, tuple(rules)) for chain, rules in chains.items())
    return Table(
        name,
        tuple(
            Chain(chain, rules, top if chain == "PREROUTING" else 0)
            for chain, rules in held
            if rules
        ),
    )


def mangle_prerouting() -> Iterator[Rule]:
    """mangle PREROUTING."""
    yield Rule(
        (ConntrackState(("INVALID",)),),
        DROP_INVALID,
        "packets that connection tracking calls INVALID would bypass nat, and so the proxy",
    )


def nat_prerouting_top(config: Config, family: Family) -> Iterator[Rule]:
    """nat PREROUTING, above all foreign rules: -k interfaces, the latest placed uppermost."""
    interfaces = config.virtual_interfaces[::-1]
    if config.outbound_networks is EVERYTHING:
        for name in interfaces:
            yield Rule(
                (InInterface(name),),
                REDIRECT,
                f"traffic from {name} counts as outbound (-k), and all of that is captured (-i)",
            )
    else:
        for network in config.networks(config.outbound_networks, family)[::-1]:
            for name in interfaces:
                yield Rule(
                    (Destination(network), InInterface(name)),
                    REDIRECT,
                    f"traffic from {name} counts as outbound (-k), and to {network} it is "
                    "captured (-i)",
                )
    for name in interfaces:
        yield Rule(
            (InInterface(name),),
            RETURN,
            f"traffic from {name} counts as outbound (-k), so it is not captured as inbound",
        )


def nat_prerouting(config: Config) -> Iterator[Rule]:
    """nat PREROUTING, below foreign rules."""
    for name in config.excluded_interfaces:
        yield Rule((InInterface(name),), RETURN, f"what arrives on {name} is left alone (-c)")
    if config.inbound_ports:
        yield Rule((TCP,), INBOUND, "inbound TCP: the chain ISTIO_INBOUND decides")


def nat_inbound(config: Config) -> Iterator[Rule]:
    """nat ISTIO_INBOUND: which inbound connections the proxy gets."""
    yield Rule(
        (TCP, DestinationPort("tcp", config.tunnel_port)),
        RETURN,
        f"port {config.tunnel_port} is the tunnel port of the proxy, reached directly",
    )
    if config.inbound_ports is EVERYTHING:
        for port in config.inbound_excluded_ports:
            yield Rule(
                (TCP, DestinationPort("tcp", port)),
                RETURN,
                f"inbound port {port} is excluded (-d)",
            )
        yield Rule((TCP,), IN_REDIRECT, "every other inbound TCP port is captured (-b)")
    else:
        for port in config.inbound_ports:
            yield Rule(
                (TCP, DestinationPort("tcp", port)),
                IN_REDIRECT,
                f"inbound port {port} is captured (-b)",
            )


def nat_output(config: Config) -> Iterator[Rule]:
    """nat OUTPUT."""
    for name in config.excluded_interfaces:
        yield Rule((OutInterface(name),), RETURN, f"what leaves by {name} is left alone (-c)")
    yield Rule((), OUTPUT, "outbound traffic: the chain ISTIO_OUTPUT decides")


def istio_output(config: Config, family: Family) -> Iterator[Rule]:
    """nat ISTIO_OUTPUT: which outbound connections the proxy gets."""
    for port in config.outbound_excluded_ports:
        for protocol in (TCP, UDP):
            yield Rule(
                (protocol, DestinationPort(protocol.name, port)),
                RETURN,
                f"outbound port {port} is excluded (-o)",
            )
    yield Rule(
        (Source(family.passthrough), LOOPBACK_INTERFACE),
        RETURN,
        "the proxy hands an inbound connection to the application",
    )
    loopback = config.loopback(family)
    for uid in config.proxy_uids:
        yield from _from_the_proxy(config, loopback, f"uid {uid}", OwnerUid, uid)
    for gid in config.proxy_gids:
        yield from _from_the_proxy(config, loopback, f"gid {gid}", OwnerGid, gid)
    yield from _owner_groups(config)
    yield Rule((loopback,), RETURN, "stays inside the pod")
    for network in config.networks(config.outbound_excluded_networks, family):
        yield Rule((Destination(network),), RETURN, f"outbound to {network} is excluded (-x)")
    for port in config.outbound_ports:
        yield Rule(
            (TCP, DestinationPort("tcp", port)),
            REDIRECT,
            f"outbound port {port} is captured whatever the address (-q)",
        )
    if config.outbound_networks is EVERYTHING:
        yield Rule((), REDIRECT, "everything else outbound is captured (-i)")
    else:
        for network in config.networks(config.outbound_networks, family):
            yield Rule((Destination(network),), REDIRECT, f"outbound to {network} is captured (-i)")


def _from_the_proxy(
    config: Config,
    loopback: Destination,
    who: str,
    owner: Callable[[int, bool], Match],
    number: int,
) -> Iterator[Rule]:
    """The three rules of one uid or gid of the proxy."""
    yield Rule(
        (
            Destination(loopback.network, negated=True),
            LOOPBACK_INTERFACE,
            TCP,
            DestinationPort("tcp", config.tunnel_port, negated=True),
            owner(number, False),
        ),
        IN_REDIRECT,
        f"the proxy ({who}) calls its own pod by a pod or service address: that is inbound",
    )
    if not config.captures_loopback:
        yield Rule(
            (LOOPBACK_INTERFACE, owner(number, True)),
            RETURN,
            f"the application (not {who}) calls itself over the loopback interface",
        )
    yield Rule((owner(number, False),), RETURN, f"sent by the proxy itself ({who})")


def _owner_groups(config: Config) -> Iterator[Rule]:
    for gid in config.owner_groups_excluded:
        yield Rule((OwnerGid(gid),), RETURN, f"processes of group {gid} are not captured")
    if config.owner_groups is not EVERYTHING:
        listed = ", ".join(map(str, config.owner_groups))
        yield Rule(
            tuple(OwnerGid(gid, negated=True) for gid in config.owner_groups),
            RETURN,
            shortened(f"only processes of these groups are captured: {listed}"),
        )


def shortened(why: str, limit: int = 255) -> str:
    """`why`, cut to what the kernel's comment match holds: 256 bytes with the final zero."""
    return why if len(why) <= limit else why[: limit - 3] + "..."
