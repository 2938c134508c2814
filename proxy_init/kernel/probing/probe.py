"""Sends real probes in this network namespace, and observes what happens to each.

Where a connection went is known from whoever accepts it: this process, where nobody else has the
proxy's ports. Nothing that is sent gets farther than the next hop.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from typing import NamedTuple, TypeAlias

from ...analysis.packet_walk import Direction, Outcome, Packet
from ...analysis.probe_plan import (
    ANY_PORT,
    LOOPBACK,
    UNASSIGNED,
    Judged,
    Owner,
    Probe,
    Result,
    Surroundings,
    in_words,
)
from ...config.config import DNS_PORT
from ...rules.model import Family
from ...rules.networks import Address
from ..routing.addresses import addresses
from . import sockets
from .forged_packets import ACK, RST, SYN, Forger
from .sockets import End, NotMade, new_socket, owned_by, taking

Ports: TypeAlias = Mapping[Family, Mapping[int, bool]]
"""Where probes may arrive, and whether the proxy listens there transparently."""

_GRACE = 0.02  # seconds in which nobody must have taken what is not to be captured
_FIRST_WAIT = 0.2  # seconds for all probes to arrive; twice as long each further time
_SYN_SENT = 2  # include/net/tcp_states.h
_BEFORE = 0x8000  # in the number of a DNS query that goes before another


class Seen(NamedTuple):
    """What happened to a probe. Without an outcome, `words` say what went wrong."""

    outcome: Outcome | None
    port: int | None = None
    words: str = ""


DIRECT, NOWHERE = Seen(Outcome.DIRECT), Seen(Outcome.DROPPED)
Look: TypeAlias = Callable[[], Seen]
"""What has become of a probe by now. Raises NotMade."""


def surroundings(destinations: Iterable[Address]) -> Surroundings:
    """The facts that decide which probes this process can send here. Raises ApplyFailed."""
    return Surroundings(_ourselves(), addresses(), dict(_interfaces(destinations)))


def _ourselves() -> Owner:
    return Owner(os.geteuid(), os.getegid())


def _interfaces(destinations: Iterable[Address]) -> Iterator[tuple[Address, str]]:
    """By which interface each is reached, but for those that a neighbour may have."""
    from ..routing.rtnetlink import connected

    with connected() as netlink:
        for to in destinations:
            family = socket.AF_INET if to.version == 4 else socket.AF_INET6
            with suppress(OSError):
                route = netlink.route_to(family, to)
                if to in UNASSIGNED[to.version] or route.get("gateway") or route.get("via"):
                    yield to, socket.if_indextoname(route["oif"])


def make(probes: Sequence[Probe], ports: Ports, proxy: Owner, wait: int) -> list[Judged]:
    """Send the probes; those that fail are repeated until `wait` milliseconds have passed.

    Where nobody listens on `ports`, `proxy` does so, if this process may be it.
    """
    until = time.monotonic() + wait / 1000
    patience = _FIRST_WAIT
    judged: dict[Probe, Judged] = {}
    pending = list(probes)
    while pending and (not judged or time.monotonic() < until):
        with ExitStack() as stack:
            stage = _Stage(stack, ports, proxy)
            judged |= stage.perform(pending, min(time.monotonic() + patience, until))
        pending = [probe for probe in pending if judged[probe].result is Result.FAILED]
        patience *= 2
    return [judged[probe] for probe in probes]


class _Stage:
    """The sockets that some probes take, and what arrived there; `stack` closes them."""

    def __init__(self, stack: ExitStack, ports: Ports, proxy: Owner) -> None:
        self._stack, self._ports = stack, ports
        self._listeners: dict[tuple[Family, int], socket.socket] = {}
        self._agents: dict[Family, socket.socket] = {}
        self._deaf: dict[tuple[Family, str | None], str] = {}
        """Why nobody would be there for what is captured by REDIRECT, or by TPROXY."""
        self._arrivals: dict[End, tuple[int, End, End]] = {}
        """By a client: the port where it was accepted, its far end, and where it wanted to go."""
        self._numbers = count(1)
        self._ports_left = sockets.fresh_ports()
        self._answerers: dict[int, Owner] = {}
        self._heard: set[int] = set()
        self._forgers: dict[tuple[Address, int], Forger] = {}
        try:
            with owned_by(proxy):
                self._owner = proxy
        except NotMade:
            self._owner = _ourselves()
        for family, wanted in ports.items():
            for port, transparent in wanted.items():
                self._listen(family, port, transparent)
            if DNS_PORT in wanted:
                self._be_the_agent(family)

    def _socket(self, family: Family, kind: socket.SocketKind, owner: Owner) -> socket.socket:
        return self._stack.enter_context(new_socket(family, kind, owner))

    def _listen(self, family: Family, port: int, transparent: bool) -> None:
        """Listen on a TCP port, unless another process does."""
        try:
            made = self._socket(family, socket.SOCK_STREAM, self._owner)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((family.any_address, port))
            made.listen(1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = f"nobody listens on port {port}, and we can't: {_reason(error)}"
                self._deaf |= {(family, "REDIRECT"): reason, (family, "TPROXY"): reason}
            return
        self._listeners[family, port] = made
        if transparent:
            try:
                sockets.make_transparent(made)
            except NotMade as error:
                self._deaf[family, "TPROXY"] = f"to listen transparently on port {port}, {error}"

    def _be_the_agent(self, family: Family) -> None:
        """Receive DNS queries, unless another process does."""
        with suppress(OSError):
            made = self._socket(family, socket.SOCK_DGRAM, self._owner)
            made.bind((str(LOOPBACK[family.value]), DNS_PORT))
            # Not before: it lets those have the port too that answer as somebody else.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._agents[family] = made

    def perform(self, probes: Iterable[Probe], until: float) -> dict[Probe, Judged]:
        """Send probes, and wait until all have passed or the time is over."""
        looks: dict[Probe, Look] = {}
        judged: dict[Probe, Judged] = {}
        for probe in probes:
            try:
                looks[probe] = self._send(probe)
            except (NotMade, OSError) as error:
                judged[probe] = Judged(probe, Result.NOT_MADE, _reason(error))
        sent = time.monotonic()
        while True:
            self._collect()
            judged |= {probe: _judged(probe, look) for probe, look in looks.items()}
            passed = all(judged[probe].result is Result.PASSED for probe in looks)
            if time.monotonic() >= (sent + _GRACE if passed else until):
                return judged
            time.sleep(_GRACE / 10)

    def _collect(self) -> None:
        """Accept the connections that have arrived, and answer queries."""
        for (_, port), listener in self._listeners.items():
            with suppress(BlockingIOError):
                while True:
                    accepted, client = listener.accept()
                    self._stack.enter_context(accepted)
                    here = sockets.end(accepted.getsockname())
                    original = sockets.original_destination(accepted)
                    self._arrivals[sockets.end(client)] = port, here, original
        for family, agent in self._agents.items():
            with suppress(BlockingIOError):
                while True:
                    self._answer(family, *agent.recvfrom(512))

    def _bind(self, made: socket.socket, address: Address, port: int) -> None:
        """Bind to a port that other sockets of this process may share, or to a port of its own."""
        if port == ANY_PORT:
            sockets.bind_afresh(made, address, self._ports_left)
            return
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(address), port))

    def _answer(self, family: Family, query: bytes, client: tuple[str, int]) -> None:
        number = int.from_bytes(query[:2])
        self._heard.add(number)
        owner = self._answerers.get(number)
        if owner:
            # From a socket of its own: who owns that decides in which zone the answer lies.
            with new_socket(family, socket.SOCK_DGRAM, owner) as answering:
                self._bind(answering, LOOPBACK[family.value], DNS_PORT)
                answering.sendto(query, client)

    def _send(self, probe: Probe) -> Look:
        """Send a probe. Raises NotMade, or OSError where the kernel refuses."""
        packet = probe.packet
        if not packet.interface:
            raise NotMade(f"{packet.destination} cannot be reached, or may be a neighbour's")
        if (packet.family, probe.expected.by) in self._deaf:
            raise NotMade(self._deaf[packet.family, probe.expected.by])
        if packet.direction is Direction.IN:
            return self._forge(probe)
        if probe.expected.verdict[1:] == ("TPROXY", packet.destination_port):
            raise NotMade(f"captured or not, it would arrive at port {packet.destination_port}")
        return self._connect(probe) if packet.protocol == "tcp" else self._ask(probe)

    def _connect(self, probe: Probe) -> Look:
        packet = probe.packet
        client = self._socket(packet.family, socket.SOCK_STREAM, probe.owner)
        if packet.mark:
            with taking("NET_ADMIN"):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", packet.mark))
        if packet.source in UNASSIGNED[packet.family.value]:
            sockets.make_transparent(client)
        error = 0
        try:
            self._bind(client, packet.source, packet.source_port)
            client.connect((str(packet.destination), packet.destination_port))
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            error = errno.ECONNREFUSED
        except OSError as refusal:
            # Nobody may connect to a broadcast address.
            if packet.interface != "lo" or refusal.errno == errno.EACCES:
                raise
            wrong = f"does not arrive: {refusal.strerror}"
            return lambda: Seen(None, words=wrong)
        own = sockets.end(client.getsockname())

        def look() -> Seen:
            nonlocal error
            if own in self._arrivals:
                return _arrived(packet, *self._arrivals[own])
            error = error or client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error == errno.ECONNREFUSED:
                return self._refused(packet)
            if error == errno.ECONNRESET:
                raise NotMade("it was accepted and closed before its owner could be identified")
            if error or client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _SYN_SENT:
                return NOWHERE if packet.interface == "lo" else DIRECT
            return self._accepted_by_somebody(probe, own[1])

        return look

    def _refused(self, packet: Packet) -> Seen:
        if packet.interface == "lo" and (packet.family, packet.destination_port) in self._listeners:
            return NOWHERE  # though we listen there
        if (packet.family, "REDIRECT") in self._deaf:
            raise NotMade(self._deaf[packet.family, "REDIRECT"])
        return DIRECT

    def _accepted_by_somebody(self, probe: Probe, client_port: int) -> Seen:
        family, port = probe.packet.family, probe.packet.destination_port
        where = sockets.accepted_on(client_port)
        if not where:
            return DIRECT
        if where != {port}:
            return Seen(Outcome.CAPTURED, where.pop())
        # Where it wanted to go, so it is there, or TPROXY has it.
        if not any(self._ports[family].values()):
            return DIRECT
        if sockets.is_taken(family, port):
            raise NotMade(f"another process has port {port}, so who accepted it is not known")
        return Seen(Outcome.CAPTURED, probe.expected.port)

    def _ask(self, probe: Probe) -> Look:
        """A DNS query without a question: servers reject it as malformed and do not forward it."""
        packet, captured = probe.packet, probe.expected.outcome is Outcome.CAPTURED
        if packet.family not in self._agents:
            raise NotMade(f"another process has port {DNS_PORT} and may get the query")
        number = next(self._numbers)
        if captured and probe.beside:
            with owned_by(probe.beside):
                self._answerers[number] = probe.beside
        client = self._socket(packet.family, socket.SOCK_DGRAM, probe.owner)
        port = ANY_PORT
        if probe.beside and not captured:
            with new_socket(packet.family, socket.SOCK_DGRAM, probe.beside) as before:
                port = self._query(before, packet, port, number | _BEFORE)
        self._query(client, packet, port, number)
        answered = False

        def look() -> Seen:
            nonlocal answered
            with suppress(OSError):
                answered = answered or int.from_bytes(client.recv(512)[:2]) == number
            if number not in self._heard:
                return DIRECT
            if number in self._answerers and not answered:
                return Seen(None, words="reaches the agent, whose answer does not come back")
            return Seen(Outcome.CAPTURED, DNS_PORT)

        return look

    def _query(self, client: socket.socket, packet: Packet, port: int, number: int) -> int:
        """Send a query; returns its source port."""
        self._bind(client, packet.source, port)
        client.connect((str(packet.destination), packet.destination_port))
        client.send(struct.pack("!6H", number, 0, 0, 0, 0, 0))
        return sockets.end(client.getsockname())[1]

    def _forge(self, probe: Probe) -> Look:
        """What shows is who answers: a port where nobody listens refuses.

        Over IPv4 what nat redirects on lo is dropped, since lo lets in nothing for 127.0.0.1 that
        no socket here has sent (net/ipv4/route.c, ip_route_input_slow): there it is silence that
        shows a capture.
        """
        packet, expected = probe.packet, probe.expected
        if sockets.is_taken(packet.family, packet.destination_port):
            raise NotMade(f"port {packet.destination_port} is in use by another process")
        key = (packet.destination, packet.mark)
        if key not in self._forgers:
            with taking("NET_RAW"):
                self._forgers[key] = Forger(self._stack, packet.source, *key)
        forger = self._forgers[key]
        port = forger.segment(packet.destination_port, SYN if packet.state == "NEW" else SYN | ACK)

        def look() -> Seen:
            answer = forger.answer(port)
            if answer is not None:
                return DIRECT if answer & RST else Seen(Outcome.CAPTURED, expected.port)
            if not forger.arrived():
                raise NotMade("packets sent here do not arrive")
            if packet.family is Family.V4 and expected.by == "REDIRECT":
                words = "does not reach its port, so it is captured"
                return Seen(Outcome.CAPTURED, expected.port, words)
            return NOWHERE

        return look


def _arrived(packet: Packet, port: int, here: End, original: End) -> Seen:
    to = packet.destination, packet.destination_port
    if here == to and port == packet.destination_port:
        return DIRECT
    if original == to:
        return Seen(Outcome.CAPTURED, port)
    return Seen(None, words=f"arrives at port {port} as if for {original[0]} port {original[1]}")


def _judged(probe: Probe, look: Look) -> Judged:
    """What is known about a probe so far."""
    try:
        seen = look()
    except (NotMade, OSError) as error:
        return Judged(probe, Result.NOT_MADE, _reason(error))
    passed = (seen.outcome, seen.port) == (probe.expected.outcome, probe.expected.port)
    words = seen.words or in_words(seen.outcome, seen.port)
    return Judged(probe, Result.PASSED if passed else Result.FAILED, words)


def _reason(error: NotMade | OSError) -> str:
    return f"the kernel refuses: {error.strerror}" if isinstance(error, OSError) else str(error)
