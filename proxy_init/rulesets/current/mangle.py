"""The table mangle: mode TPROXY, and --drop-invalid."""

from __future__ import annotations

from ...config.config import EVERYTHING, TPROXY_OUTBOUND_MARK, Config, Mode
from ...rules.matches import (
    ConnectionMark,
    ConntrackState,
    Destination,
    DestinationPort,
    InInterface,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Source,
)
from ...rules.model import Family, Rule, Table
from ...rules.targets import DROP, RETURN, RestoreMark, SaveMark, SetMark
from ..common import (
    DIVERT,
    DROP_INVALID,
    FROM_LOOPBACK,
    TCP,
    TO_INBOUND,
    TO_LOOPBACK,
    TPROXY,
    inbound_exclusions,
    mangle_divert,
    mangle_tproxy,
    table_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def table(config: Config, family: Family) -> Table:
    """The table mangle: mode TPROXY, and --drop-invalid."""
    transparent = config.mode is Mode.TPROXY
    marking = transparent and config.inbound_ports
    return table_of(
        "mangle",
        PREROUTING=prerouting(config),
        OUTPUT=output(config, family) if transparent else (),
        ISTIO_DIVERT=mangle_divert(config) if marking else (),
        ISTIO_DROP=drop() if config.drop_invalid else (),
        ISTIO_INBOUND=inbound(config, family) if transparent else (),
        ISTIO_TPROXY=mangle_tproxy(config, family, config.inbound_port) if marking else (),
    )


def prerouting(config: Config) -> Iterator[Rule]:
    """mangle PREROUTING."""
    transparent = config.mode is Mode.TPROXY
    if transparent:
        for name in config.excluded_interfaces:
            yield Rule((InInterface(name),), RETURN, f"traffic arriving on {name} is excluded (-c)")
    if config.drop_invalid:
        yield Rule(
            (ConntrackState(("INVALID",)),),
            DROP_INVALID,
            "packets in state INVALID would bypass the table nat, and so the proxy",
        )
    if transparent and config.inbound_ports:
        yield TO_INBOUND
    if transparent:
        yield Rule(
            (TCP, Mark(config.tproxy_mark)),
            SaveMark(),
            "the connection keeps the mark that the proxy set",
        )


def output(config: Config, family: Family) -> Iterator[Rule]:
    """mangle OUTPUT, mode TPROXY."""
    for name in config.excluded_interfaces:
        yield Rule((OutInterface(name),), RETURN, f"traffic leaving on {name} is excluded (-c)")
    yield Rule(
        (TO_LOOPBACK, TCP, Mark(config.tproxy_mark)),
        RETURN,
        "the proxy connects to the application from the client's address: already marked",
    )
    for kind, numbers, owner in (
        ("uid", config.proxy_uids, OwnerUid),
        ("gid", config.proxy_gids, OwnerGid),
    ):
        for number in numbers:
            yield Rule(
                (
                    Destination(config.loopback(family).network, negated=True),
                    TO_LOOPBACK,
                    TCP,
                    owner(number),
                ),
                SetMark(TPROXY_OUTBOUND_MARK),
                f"the proxy ({kind} {number}) connects to its pod by the pod's address: "
                "counts as inbound",
            )
    yield Rule(
        (TCP, ConnectionMark(config.tproxy_mark)),
        RestoreMark(),
        "the application replies to the proxy: marked, so that the policy route returns it",
    )


def inbound(config: Config, family: Family) -> Iterator[Rule]:
    """mangle ISTIO_INBOUND, mode TPROXY: which inbound packets go to the proxy."""
    yield Rule((TCP, Mark(config.tproxy_mark)), RETURN, "from the proxy to the application")
    yield Rule(
        (Source(family.passthrough), FROM_LOOPBACK, TCP),
        RETURN,
        "the proxy forwards an inbound connection to the application",
    )
    yield Rule(
        (FROM_LOOPBACK, TCP, Mark(TPROXY_OUTBOUND_MARK, negated=True)),
        RETURN,
        "stays inside the pod, and is not from the proxy to its own pod",
    )
    if config.inbound_ports is EVERYTHING:
        yield from inbound_exclusions(config)
        yield from _transparently((), "every other inbound TCP port")
    else:
        for port in config.inbound_ports:
            yield from _transparently((DestinationPort("tcp", port),), f"inbound port {port}")


def _transparently(port: tuple[Match, ...], what: str) -> Iterator[Rule]:
    yield Rule(
        (TCP, *port, ConntrackState(("RELATED", "ESTABLISHED"))),
        DIVERT,
        f"{what}: part of a connection that the proxy already has",
    )
    yield Rule((TCP, *port), TPROXY, f"{what} is captured (-b)")


def drop() -> Iterator[Rule]:
    """mangle ISTIO_DROP."""
    yield Rule((), DROP, "the packet belongs to no known connection (state INVALID)")
