"""What is found wrong in a pod; tests/kernel/test_broken_pods.py breaks real ones."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from proxy_init.analysis.diagnosis import Cause, diagnose
from proxy_init.analysis.kernel_rules import KernelTable, TableKind
from proxy_init.analysis.listeners import Listener
from proxy_init.analysis.pod_facts import FamilyRules, Known, Pod
from proxy_init.config.config import Config
from proxy_init.rules.counts import Count
from proxy_init.rules.inet_tables import PRIORITIES
from proxy_init.rules.model import Family, Ruleset, Table
from proxy_init.rules.networks import read_address
from proxy_init.rules.targets import Redirect, Tproxy
from proxy_init.rulesets import build
from tests.random_packets import config_of
from tests.strategies import Call, calls

from .fakes import bounded, settled

ADDRESSES = frozenset(map(read_address, ("127.0.0.1", "192.0.2.2", "::1")))
ANY = {Family.V4: read_address("0.0.0.0"), Family.V6: read_address("::")}


def kernel_table(table: Table, packets: int = 0) -> KernelTable:
    """A legacy table that holds just our rules, which have matched so many packets each."""
    counts = {chain.name: (Count(packets, 0),) * len(chain.rules) for chain in table.chains}
    return KernelTable(PRIORITIES[table.name], table.name, table, counts, TableKind.LEGACY)


def pod(rulesets: Iterable[Ruleset], listeners: Iterable[Listener] | None, *services: str) -> Pod:
    """A pod with these rules."""
    rules = {
        each.family: FamilyRules(
            each.family,
            tuple(map(kernel_table, each.tables)),
            (each.routing.policy_route,) if each.routing.policy_route else (),
        )
        for each in rulesets
    }
    known = tuple(Known(read_address(each), "a name server") for each in services)
    return Pod(rules, ADDRESSES, None if listeners is None else tuple(listeners), known)


def proxy(config: Config, rulesets: Iterable[Ruleset]) -> list[Listener]:
    """The sockets of a proxy that these rules are for."""
    return [
        Listener(protocol, ANY[each.family], target.port, config.proxy_uids[0], transparent)
        for each in rulesets
        for target in {rule.target for rule in each.rules}
        if isinstance(target, Redirect | Tproxy)
        for protocol in ("tcp", "udp")
        for transparent in [any(isinstance(rule.target, Tproxy) for rule in each.rules)]
    ]


@bounded
@given(calls())
def test_nothing_is_wrong_with_a_proxy_that_listens_where_the_rules_send(call: Call) -> None:
    config = config_of(call)
    rulesets = [build(config, family) for family in Family]
    found = {each.cause for each in diagnose(pod(rulesets, proxy(config, rulesets)))}
    known = set() if config.inbound_ports else {Cause.INBOUND_NOT_CAPTURED}
    if "+" in config.virtual_interfaces:  # its RETURN is for every packet
        known.add(Cause.BYPASSED)
    assert found <= known


@bounded
@given(calls(), st.booleans())
def test_without_a_proxy_every_port_is_named(call: Call, known: bool) -> None:
    config = config_of(call)
    rulesets = [build(config, family) for family in Family]
    there = pod(rulesets, [] if known else None)
    found = [each for each in diagnose(there) if each.cause is Cause.NOT_LISTENING]
    targets = [each.rule.target for of in there.rules.values() for each in of.ours]
    ports = {target.port for target in targets if isinstance(target, Redirect | Tproxy)}
    if known:
        assert all(any(f"port {port}" in each.says for each in found) for port in ports)
    else:
        assert not found


def test_an_excluded_network_with_a_name_server_is_named_and_an_excluded_address_is_not() -> None:
    def causes(excluded: str, server: str) -> list[str]:
        config = settled("-i", "*", "-b", "*", "-x", excluded)
        rulesets = [build(config, Family.V4)]
        found = diagnose(pod(rulesets, proxy(config, rulesets), server))
        return [each.says for each in found]

    [says] = causes("10.96.0.0/12", "10.96.0.10")
    assert says.startswith(
        "Connections to 10.96.0.0/12 are not captured (-x), and it holds 10.96.0.10, a name server"
    )
    assert causes("10.96.0.10/32", "10.96.0.10") == []
    assert causes("10.96.0.0/12", "10.1.0.10") == []
    assert causes("169.254.0.0/16", "169.254.20.10") == []  # the node's cache of names


def test_where_there_are_no_rules_of_ours_nothing_is_said() -> None:
    assert diagnose(pod([Ruleset(Family.V4), Ruleset(Family.V6)], [])) == ()
