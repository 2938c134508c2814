"""Rules change in a pod that is at work, and no connection notices."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pods import Pod, listener, make_pod
from pods.namespace import Tell, process
from tests.running import run_in

CHANGES = 200
LONGEST = 300.0  # seconds that a client goes on at most

EVERYTHING = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
OTHER = (*EVERYTHING, "-x", "203.0.113.0/24", "-o", "7777", "-d", "9999", "-q", "80", "--comments")
TPROXY = (*EVERYTHING, "-m", "TPROXY")
OF_1_0 = ("--ruleset", "1.0", "-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*")


def _connect_all_the_time(address: str, port: int, stop: Path, result: Path) -> None:
    """Open connection after connection until `stop` is there; then say who answered how often."""
    answers: Counter[str] = Counter()
    until = time.monotonic() + LONGEST
    while not stop.exists() and time.monotonic() < until:
        try:
            with socket.create_connection((address, port), timeout=5) as connection:
                answers[json.loads(connection.makefile().readline())["who"]] += 1
        except (OSError, ValueError) as error:
            answers[repr(error)] += 1
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(answers))
    partial.rename(result)


@contextmanager
def _client(namespace: str, address: str, port: int, stop: Path, result: Path) -> Iterator[None]:
    def work(tell: Tell) -> None:
        tell("connecting")
        _connect_all_the_time(address, port, stop, result)

    with process(namespace, work, uid=1000, gid=1000):
        yield
        until = time.monotonic() + 30
        while not result.exists():
            assert time.monotonic() < until, "a client did not end"
            time.sleep(0.05)


def _answers_while_flags_change(
    pod: Pod, flags: tuple[tuple[str, ...], tuple[str, ...]], versions: tuple[int, ...], place: Path
) -> dict[str, Counter[str]]:
    """Who answered connections out and in while the two sets of flags take turns."""
    first = run_in(pod.namespace, *flags[0])
    assert first.status == 0, first.stderr
    stop = place / "stop"
    internet = {4: "198.51.100.7", 6: "2001:db8:ffff::7"}
    calls = {
        f"{direction}-{version}": (namespace, address, port)
        for version in versions
        for direction, namespace, address, port in (
            ("out", pod.namespace, internet[version], 80),
            ("in", pod.outside, pod.address(version), 8080),
        )
    }
    with ExitStack() as running:
        for name, (namespace, address, port) in calls.items():
            running.enter_context(_client(namespace, address, port, stop, place / name))
        for number in range(CHANGES):
            changed = run_in(pod.namespace, *flags[(number + 1) % 2])
            assert changed.status == 0, changed.stderr
            assert "result=applied" in changed.stderr
        stop.touch()
    return {name: Counter(json.loads((place / name).read_text())) for name in calls}


@pytest.mark.parametrize(
    ("flags", "versions"),
    [
        ((EVERYTHING, OTHER), (4, 6)),
        ((EVERYTHING, TPROXY), (4, 6)),
        ((EVERYTHING[:-1], OF_1_0), (4,)),
        ((TPROXY[:-3] + TPROXY[-2:], (*OF_1_0, "-m", "TPROXY")), (4,)),
    ],
    ids=["other flags", "other mode", "other rule set", "other rule set, TPROXY"],
)
def test_no_connection_slips_by_or_fails_while_rules_are_replaced(
    flags: tuple[tuple[str, ...], tuple[str, ...]], versions: tuple[int, ...], tmp_path: Path
) -> None:
    with make_pod() as pod, ExitStack() as listening:
        for namespace, who, ports, uid, transparent in (
            (pod.namespace, "proxy", (15001, 15006), 1337, True),
            (pod.namespace, "app", (8080,), 1000, False),
            (pod.outside, "outside", (80,), 0, False),
        ):
            listening.enter_context(
                listener(namespace, who, ports, uid=uid, gid=uid, transparent=transparent)
            )
        answers = _answers_while_flags_change(pod, flags, versions, tmp_path)
    # Thousands of connections, so that every moment of a change is met by some.
    assert min(sum(counted.values()) for counted in answers.values()) > CHANGES
    assert {name: set(counted) for name, counted in answers.items()} == {
        name: {"proxy"} for name in answers
    }, answers
