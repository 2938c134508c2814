"""Addresses, routes and policy rules of this process's network namespace, through netlink.

The messages are pyroute2's; the socket is a plain one, because pyroute2's come with asyncio and
multiprocessing, which take 120 ms to load.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import PathFinder
from itertools import count

from ...log import logger
from ..system.stand_ins import module, stand_ins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any

# linux/netlink.h, linux/rtnetlink.h. Of each kind there are three messages in a row: one that adds,
# which the kernel's answers have too, one that deletes, one that asks.
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x600  # the last: and only if there is none
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10
_ADDRESS, _ROUTE, _RULE = 20, 24, 32
_KINDS = {"address": _ADDRESS, "route": _ROUTE, "rule": _RULE}
_VERBS = {"add": 0, "delete": 1, "get": 2}

_BUFFER = 1 << 16  # the kernel's own are at most half as large
_MOST_TRIES = 10
"""How often a list is asked for that changes while the kernel tells it."""


class Netlink:
    """A connection, see `connected`. All its methods raise OSError where the kernel refuses."""

    def __init__(self, socket: _socket.socket, marshal: Any) -> None:
        self._socket = socket
        self._marshal = marshal
        self._numbers = count(1)

    def get(self, kind: str, family: int) -> list[Any]:
        """All of a kind, `address`, `route` or `rule`, that belong to a family."""
        for _ in range(_MOST_TRIES):
            self._send("get", kind, _DUMP, {"family": family}, {})
            answers = list(self._answers())
            if not any(answer["header"]["flags"] & _INTERRUPTED for answer in answers):
                return answers[:-1]
        raise OSError(errno.EAGAIN, f"the list of {kind}s changes all the time")

    def route_to(self, family: int, to: IPv4Address | IPv6Address) -> Any:
        """The route by which a packet to an address would leave."""
        fields = {"family": family, "dst_len": to.max_prefixlen}
        self._send("get", "route", _ACK, fields, {"RTA_DST": str(to)})
        route, _ = self._answers()
        return route

    def change(
        self, verb: str, kind: str, fields: Mapping[str, int], attributes: Mapping[str, object]
    ) -> None:
        """Add or delete one; `verb` says which."""
        self._send(verb, kind, _ACK | (_CREATE if verb == "add" else 0), fields, attributes)
        for _ in self._answers():
            pass

    def _send(
        self,
        verb: str,
        kind: str,
        flags: int,
        fields: Mapping[str, int],
        attributes: Mapping[str, object],
    ) -> None:
        self._number = next(self._numbers)
        message = self._marshal.msg_map[_KINDS[kind]]()
        message["header"] = {
            "type": _KINDS[kind] + _VERBS[verb],
            "flags": _REQUEST | flags,
            "sequence_number": self._number,
        }
        message.update(fields)
        message["attrs"] = list(attributes.items())
        message.encode()
        self._socket.send(message.data)

    def _answers(self) -> Iterator[Any]:
        """The messages that answer the last one sent, and the one that says that it is done."""
        while True:
            for message in self._marshal.parse(self._socket.recv(_BUFFER)):
                header = message["header"]
                if header["sequence_number"] != self._number:
                    continue
                if header["error"]:
                    raise OSError(*header["error"].args)
                yield message
                if header["type"] in (_ERROR, _DONE):  # an error of 0 says that it is done
                    return


@contextmanager
def connected() -> Iterator[Netlink]:
    """A connection to the kernel for as long as the block lasts. Raises OSError."""
    socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
    try:
        yield Netlink(socket, load())
    finally:
        socket.close()


@cache
def load() -> Any:
    """pyroute2's reader of messages, which has the class for each kind of them."""
    if "pyroute2" in sys.modules:
        return _load()
    place = PathFinder.find_spec("pyroute2")
    threads = {"Lock": _thread.allocate_lock, "RLock": _thread.RLock, "local": _thread._local}
    with stand_ins(
        {
            # The package itself, which would import all of its modules.
            "pyroute2": module("pyroute2", __path__=place and place.submodule_search_locations),
            "logging": module("logging", getLogger=lambda _: logger),
            "socket": module("socket", **{**vars(_socket), "AddressFamily": int}),
            "threading": module("threading", **threads),
            "traceback": module("traceback", format_exc=str, format_stack=list),
        }
    ):
        return _load()


def _load() -> Any:
    from pyroute2.netlink.marshal import Marshal
    from pyroute2.netlink.rtnl.fibmsg import fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    marshal = Marshal()
    marshal.msg_map.update({_ADDRESS: ifaddrmsg, _ROUTE: rtmsg, _RULE: fibmsg})
    return marshal
