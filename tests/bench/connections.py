"""How long it takes to establish a connection through the rules.

An application in a pod connects to an address outside; the rules send it to the proxy. The kernel
walks the rules for the first packet of each connection, and itself answers for a listener; so the
proxy, here one that hangs up, need not disturb while the connections are made.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pods import Pod, make_pod, namespace

from .cases import LENGTHS, USUAL, cidrs

BATCH = 1000
"""Connections that are made in a row."""
OUTSIDE = ("203.0.113.7", 80)  # in none of the CIDRs
PROXY, APPLICATION = 1337, 1000
HANG_UP = struct.pack("ii", 1, 0)  # SO_LINGER: a reset, which leaves nothing behind


@dataclass(frozen=True)
class Walked:
    """Rules that a connection passes."""

    how: str
    length: int
    """How many CIDRs are excluded."""


def connection_times(
    rounds: int, hows: Mapping[str, Sequence[str]], work: Path
) -> dict[Walked, list[float]]:
    """Microseconds for each connection, by the rules that it went through.

    `hows` has the flags for each way to hold the CIDRs, by its name.
    """
    times: dict[Walked, list[float]] = {}
    with ExitStack() as stack:
        pods: dict[Walked, Pod] = {}
        for length in (0, *LENGTHS):
            path = work / f"excluded-{length}"
            path.write_text("\n".join(cidrs(length)))
            for how, flags in hows.items():
                pod = stack.enter_context(make_pod(ipv6=False))
                pod.apply(*USUAL, "-x", f"@{path}", *flags).check_returncode()
                proxy = namespace.process(pod.namespace, _proxy, uid=PROXY, gid=PROXY)
                stack.enter_context(proxy)
                pods[Walked(how, length)] = pod
        for _ in range(rounds):
            for walked, pod in pods.items():
                times.setdefault(walked, []).extend(_batch(pod))
    return times


def _batch(pod: Pod) -> list[float]:
    return namespace.call(
        pod.namespace, lambda: list(_connections()), uid=APPLICATION, gid=APPLICATION, timeout=60
    )


def _connections() -> Iterator[float]:
    for _ in range(BATCH):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HANG_UP)
            started = time.perf_counter()
            client.connect(OUTSIDE)
            yield (time.perf_counter() - started) * 1e6


def _proxy(tell: Callable[[object], None]) -> None:
    with socket.create_server(("", int(USUAL[1])), backlog=4096) as server:
        server.setblocking(False)
        tell(None)
        while True:
            time.sleep(0.05)
            with suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
