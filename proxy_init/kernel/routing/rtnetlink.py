"""Addresses, routes and policy rules of this process's network namespace, through netlink.

Sources: linux/rtnetlink.h, linux/if_addr.h, linux/fib_rules.h, man 7 rtnetlink.
"""

from __future__ import annotations

import sys
from struct import Struct, pack

from ...light import contextmanager
from ..system import netlink
from ..system.netlink import ACK, CREATE, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeAlias

    from ...rules.networks import Address

    Entry: TypeAlias = Mapping[str, Any]
    """A route, rule or address: the fields of its header and its attributes by name, numbers as
    such and all else as bytes; `others` are the attributes that have no name here."""

_ROUTE = 0  # NETLINK_ROUTE
_EXCLUSIVE = 0x200  # only if there is none
# Of each kind there are three messages in a row: one that adds, which the kernel's answers have
# too, one that deletes, one that asks.
_KINDS = {"address": 20, "route": 24, "rule": 32}
_VERBS = {"add": 0, "delete": 1, "get": 2}
_ADDRESS_HEADER, _ROUTE_HEADER = Struct("=BBBBI"), Struct("=BBBBBBBBI")
_HEADERS = {
    "address": (_ADDRESS_HEADER, ("family", "prefixlen", "flags", "scope", "index")),
    "route": (
        _ROUTE_HEADER,
        ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags"),
    ),
    "rule": (
        _ROUTE_HEADER,
        ("family", "dst_len", "src_len", "tos", "table", "res1", "res2", "action", "flags"),
    ),
}
_ATTRIBUTES = {
    "address": {"address": 1, "local": 2},
    "route": {
        **{"dst": 1, "oif": 4, "gateway": 5, "priority": 6, "prefsrc": 7, "metrics": 8},
        **{"table": 15, "via": 18},
    },
    "rule": {
        **{"priority": 6, "fwmark": 10, "suppress_prefixlen": 14, "table": 15, "fwmask": 16},
        "protocol": 21,
    },
}
_NAMES = {kind: {n: name for name, n in names.items()} for kind, names in _ATTRIBUTES.items()}
_BYTES = frozenset({"address", "local", "dst", "gateway", "prefsrc", "metrics", "via"})


class Netlink:
    """A connection, see `connected`. All its methods raise OSError where the kernel refuses."""

    def __init__(self, connection: netlink.Connection) -> None:
        self._connection = connection

    def get(self, kind: str, family: int) -> list[Entry]:
        """All objects of a kind (`address`, `route` or `rule`) of a family."""
        question = _message("get", kind, {"family": family}, {})
        return [_entry(kind, body) for body in self._connection.dump(question)]

    def route_to(self, family: int, to: Address) -> Entry:
        """The route that a packet to an address would take."""
        fields = {"family": family, "dst_len": to.max_prefixlen}
        return _entry(
            "route", self._connection.ask(_message("get", "route", fields, {"dst": to.packed}))
        )

    def change(
        self, verb: str, kind: str, fields: Mapping[str, int], attributes: Mapping[str, int]
    ) -> None:
        """Add or delete an object; `verb` is `add` or `delete`."""
        flags = ACK | (CREATE | _EXCLUSIVE if verb == "add" else 0)
        self._connection.tell([_message(verb, kind, fields, attributes, flags)])


def _message(
    verb: str,
    kind: str,
    fields: Mapping[str, int],
    attributes: Mapping[str, int | bytes],
    flags: int = 0,
) -> Message:
    header, names = _HEADERS[kind]
    body = header.pack(*(fields.get(name, 0) for name in names))
    for name, value in attributes.items():
        data = value if isinstance(value, bytes) else pack("=I", value)
        body += netlink.attribute(_ATTRIBUTES[kind][name], data)
    return Message(_KINDS[kind] + _VERBS[verb], body, flags)


def _entry(kind: str, body: bytes) -> Entry:
    header, fields = _HEADERS[kind]
    entry: dict[str, Any] = dict(zip(fields, header.unpack_from(body), strict=True))
    others = []
    for number, value in netlink.each_attribute(body[header.size :]):
        name = _NAMES[kind].get(number)
        if name is None:
            others.append(number)
        else:
            entry[name] = value if name in _BYTES else int.from_bytes(value, sys.byteorder)
    return {**entry, "others": others}


@contextmanager
def connected() -> Iterator[Netlink]:
    """A connection to the kernel for as long as the block lasts. Raises OSError."""
    with netlink.connected(_ROUTE) as connection:
        yield Netlink(connection)
