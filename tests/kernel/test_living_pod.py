"""Rules change in a pod that is at work, and no connection notices.

Two hundred times each; the variable CHANGES says how often instead.
"""

import json
import multiprocessing
import os
import socket
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import pytest

from pods import Pod, listener, make_pod
from pods.namespace import Tell, process
from tests.running import both_backends, run_in

CHANGES = int(os.environ.get("CHANGES", "200"))
LONGEST = CHANGES * 1.5  # seconds that a client goes on at most

EVERYTHING = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
# More than 32 are a set of nf_tables.
NETWORKS = [f"203.0.113.{n}/32" for n in range(0, 80, 2)] + ["2001:db8:aaaa::/48"]
EXCLUDING = (*EVERYTHING, "-x", ",".join(NETWORKS))
OTHER = (
    *(*EVERYTHING, "-x", ",".join(NETWORKS[1:]), "-o", "7777", "-d", "9999", "-q", "80"),
    "--comments",
)
TPROXY = (*EVERYTHING, "-m", "TPROXY")
OF_1_0 = ("--ruleset", "1.0", "-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*")


def _connect_all_the_time(address: str, port: int, stop: Event) -> dict[str, int]:
    """Open connection after connection until told to stop; gives who answered how often."""
    answers: Counter[str] = Counter()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    until = time.monotonic() + LONGEST
    while not stop.is_set() and time.monotonic() < until:
        try:
            with socket.socket(family) as connection:
                connection.settimeout(5)
                connection.connect((address, port))
                answers[json.loads(connection.makefile().readline())["who"]] += 1
        except (OSError, ValueError) as error:
            answers[repr(error)] += 1
    return dict(answers)


def _answers_while_flags_change(
    pod: Pod, flags: tuple[tuple[str, ...], tuple[str, ...]], versions: tuple[int, ...]
) -> dict[str, dict[str, int]]:
    """Who answered connections out and in, and how often, while two sets of flags take turns."""
    first = run_in(pod.namespace, *flags[0])
    assert first.status == 0, first.stderr
    internet = {4: "198.51.100.7", 6: "2001:db8:ffff::7"}
    fork = multiprocessing.get_context("fork")
    stop = fork.Event()
    results = {}
    with ExitStack() as running:
        for version in versions:
            for direction, namespace, address, port in (
                ("out", pod.namespace, internet[version], 80),
                ("in", pod.outside, pod.address(version), 8080),
            ):
                receiver, sender = fork.Pipe(duplex=False)
                results[f"{direction}, IPv{version}"] = receiver
                client = partial(_client, address, port, stop, sender)
                running.enter_context(process(namespace, client, uid=1000, gid=1000))
        for number in range(CHANGES):
            changed = run_in(pod.namespace, *flags[(number + 1) % 2])
            assert changed.status == 0, changed.stderr
            assert "result=applied" in changed.stderr
        stop.set()
        return {name: receiver.recv() for name, receiver in results.items() if receiver.poll(30)}


def _client(address: str, port: int, stop: Event, sender: Connection, tell: Tell) -> None:
    tell("connecting")
    sender.send(_connect_all_the_time(address, port, stop))
    time.sleep(LONGEST)  # until the block that it runs for ends


LEGACY, NFT = ("--backend", "legacy"), ("--backend", "nft")
# Between the hooks of mangle and of nat, so that packets take long from one to the other.
SLOW = """
table inet theirs {{
    chain in {{
        type filter hook prerouting priority -120; {rules}
    }}
    chain out {{
        type filter hook output priority -120; {rules}
    }}
}}
""".format(rules="tcp dport 9 ct mark 7;" * 1500)


@both_backends
@pytest.mark.parametrize(
    ("flags", "versions"),
    [
        ((EXCLUDING, OTHER), (4, 6)),
        ((EVERYTHING, TPROXY), (4, 6)),
        ((EVERYTHING[:-1], OF_1_0), (4,)),
        ((TPROXY[:-3] + TPROXY[-2:], (*OF_1_0, "-m", "TPROXY")), (4,)),
    ],
    ids=["other flags", "other mode", "other rule set", "other rule set, TPROXY"],
)
def test_no_connection_slips_by_or_fails_while_rules_are_replaced(
    flags: tuple[tuple[str, ...], tuple[str, ...]], versions: tuple[int, ...]
) -> None:
    _change_all_the_time(flags, versions)


@pytest.mark.parametrize(
    "flags",
    [
        ((*EVERYTHING, *NFT), (*TPROXY, *NFT)),
        ((*EVERYTHING, *LEGACY), (*EVERYTHING, *NFT)),
        ((*TPROXY, *LEGACY), (*TPROXY, *NFT)),
        ((*EVERYTHING, *LEGACY), (*TPROXY, *NFT)),
        ((*TPROXY, *LEGACY), (*EVERYTHING, *NFT)),
    ],
    ids=["mode", "backend", "backend, TPROXY", "both", "both, the other way"],
)
def test_nor_where_packets_take_long_through_the_hooks(
    flags: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    _change_all_the_time(flags, (4, 6), SLOW)


def _change_all_the_time(
    flags: tuple[tuple[str, ...], tuple[str, ...]], versions: tuple[int, ...], foreign: str = ""
) -> None:
    with make_pod() as pod, ExitStack() as listening:
        if foreign:
            pod.run(["nft", foreign]).check_returncode()
        for namespace, who, ports, uid, transparent in (
            (pod.namespace, "proxy", (15001, 15006), 1337, True),
            (pod.namespace, "app", (8080,), 1000, False),
            (pod.outside, "outside", (80,), 0, False),
        ):
            listening.enter_context(
                listener(namespace, who, ports, uid=uid, gid=uid, transparent=transparent)
            )
        answers = _answers_while_flags_change(pod, flags, versions)
    print(f"{CHANGES} changes: {answers}")  # pytest -rP shows it
    # Thousands of connections, so that every moment of a change is met by some.
    assert len(answers) == 2 * len(versions)
    fewest = min(sum(counted.values()) for counted in answers.values())
    assert fewest > CHANGES
    assert {name: set(counted) for name, counted in answers.items()} == {
        name: {"proxy"} for name in answers
    }, answers
