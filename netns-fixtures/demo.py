"""Watch proxy-init redirect real connections.

  sudo netns-fixtures/demo [FLAGS...]

The flags are those of proxy-init, and come after what a 1.0 injector passes: the last counts.
Exit status: 0 if every connection went where the flags send it, 1 if not; 2 for a wrong call.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pods import ENVIRONMENT, TIMEOUT, Answer, Endpoint, Pod, connect, listener, make_pod
from pods.namespace import leave_blocks_on_signals
from proxy_init.analysis.packet_sets import Journey
from proxy_init.analysis.packet_walk import Direction, Packet, is_named
from proxy_init.analysis.promises import known_weakness, promised
from proxy_init.config.config import EVERYTHING, Config, Everything, settle
from proxy_init.config.read import read_config
from proxy_init.errors import BadCall
from proxy_init.kernel.system.host import Host
from proxy_init.rules.networks import read_address

INJECTOR = ("-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "")
EXCLUDED = ("-x", "198.51.100.128/25")

INTERNET = {4: "198.51.100.7", 6: "2001:db8:ffff::7"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
LONGEST_INTERFACE = 12  # the other end is called to-<name>, and 15 bytes is all there is


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who connects and listens."""

    namespace: str
    uid: int
    gid: int
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connection to make; `interface` is the pod's, where it has to come in by that one."""

    who: str
    to: Endpoint
    interface: str | None = None


def main(flags: Sequence[str]) -> int:
    """One run of proxy-init: 0 if all is right after it, 1 if not, else what it exited with."""
    if {"-h", "--help"} & {*flags}:
        print(__doc__, end="")
        return 0
    arguments = [*INJECTOR, *EXCLUDED, *flags]
    config = read_config(arguments, ENVIRONMENT, Host())
    if config.network_namespace:
        print("demo: it has its own pod", file=sys.stderr)
        return 2
    versions = (4, 6) if config.ipv6 or config.dual_stack else (4,)
    with make_pod(ipv6=6 in versions, interfaces=_interfaces(config)) as pod:
        config = settle(config, [read_address(pod.address(version)) for version in versions])
        print("$", shlex.join(["proxy-init", *arguments]), flush=True)
        applied = pod.apply(*arguments)
        print(applied.stdout, end="", flush=True)
        print(applied.stderr, end="", file=sys.stderr, flush=True)
        if applied.returncode != 0:
            return applied.returncode
        return 0 if _connect_and_judge(config, pod, versions) else 1


def _connect_and_judge(config: Config, pod: Pod, versions: Sequence[int]) -> bool:
    actors = _actors(config, pod)
    table = Table("who (uid)", "connected to", "went to", "expected", "right?", box=SIMPLE_HEAD)
    astray = 0
    with ExitStack() as listening:
        for name, actor in actors.items():
            # By TPROXY a listener sees the port that was meant: the proxy's names tell its own.
            ports = [(port,) for port in actor.ports] if name == "proxy" else [actor.ports]
            for some in ports:
                called = f"{name} :{some[0]}" if name == "proxy" else name
                listening.enter_context(
                    listener(
                        actor.namespace,
                        called,
                        some,
                        uid=actor.uid,
                        gid=actor.gid,
                        transparent=name == "proxy",
                    )
                )
        for attempt in (each for version in versions for each in _attempts(config, pod, version)):
            who = actors[attempt.who]
            answer = connect(
                who.namespace,
                *attempt.to,
                uid=who.uid,
                gid=who.gid,
                interface=attempt.interface and f"to-{attempt.interface}",
            )
            went = _shown(answer, attempt.to)
            journey, packet = _sent(pod, who, attempt)
            wanted = _expected(config, actors, attempt, journey, packet)
            known = known_weakness(config, journey, packet)
            is_astray = went not in wanted and not known
            table.add_row(
                f"{attempt.who} ({who.uid})",
                f"{attempt.to}" + (f" by {attempt.interface}" if attempt.interface else ""),
                went,
                " or ".join(wanted),
                "yes" if went in wanted else "ASTRAY" if is_astray else "a known weakness",
                style="bold red" if is_astray else None,
            )
            astray += is_astray
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table)
    right = table.row_count - astray
    console.print(f"{right} of {table.row_count} connections went where these flags send them.")
    return not astray


def _interfaces(config: Config) -> list[str]:
    """eth0, and those that -c and -k name, so that there is something to see on them."""
    named = (*config.excluded_interfaces, *config.virtual_interfaces)
    usable = (name for name in named if name != "lo" and not name.endswith("+"))
    return list(dict.fromkeys(["eth0", *(n for n in usable if len(n) <= LONGEST_INTERFACE)]))


def _actors(config: Config, pod: Pod) -> dict[str, Actor]:
    proxy = dict.fromkeys((config.outbound_port, config.inbound_port, config.tunnel_port))
    app = {8080, 9090, *_some(config.inbound_ports), *_some(config.inbound_excluded_ports)}
    outside = {80, 443, *_some(config.outbound_ports), *_some(config.outbound_excluded_ports)}
    return {
        "app": Actor(pod.namespace, 1000, 1000, tuple(sorted(app - proxy.keys()))),
        "proxy": Actor(pod.namespace, config.proxy_uids[0], config.proxy_gids[0], tuple(proxy)),
        "outside": Actor(pod.outside, 0, 0, tuple(sorted(outside))),
    }


def _some(ports: tuple[int, ...] | Everything) -> tuple[int, ...]:
    return () if ports is EVERYTHING else ports[:2]


def _attempts(config: Config, pod: Pod, version: int) -> Iterator[Attempt]:
    actors = _actors(config, pod)
    internet, loopback, own = INTERNET[version], LOOPBACK[version], pod.address(version)
    for port in actors["outside"].ports:
        yield Attempt("app", Endpoint(internet, port))
    for address in _samples(config, pod, version):
        yield Attempt("app", Endpoint(address, 80))
    yield Attempt("proxy", Endpoint(internet, 80))
    for port in (*actors["app"].ports, config.tunnel_port):
        yield Attempt("outside", Endpoint(own, port))
    for who in ("app", "proxy"):
        for address in (loopback, own):
            yield Attempt(who, Endpoint(address, 8080))
    for interface in pod.interfaces:
        if interface.name != "eth0":
            yield Attempt("app", Endpoint(pod.neighbour(version, interface.name), 80))
            yield Attempt("outside", Endpoint(pod.address(version, interface.name), 8080))
        if any(is_named(interface.name, name) for name in config.virtual_interfaces):
            yield Attempt("outside", Endpoint(internet, 80), interface.name)


def _samples(config: Config, pod: Pod, version: int) -> Iterator[str]:
    """An address out of each of the first CIDRs that -i and -x name, where one can be reached."""
    included = () if config.outbound_networks is EVERYTHING else config.outbound_networks
    for networks in (included, config.outbound_excluded_networks):
        for each in [each for each in networks if each.version == version][:2]:
            network = ip_network(str(each))
            address = network[1] if network.num_addresses > 1 else network[0]
            nowhere = address in IPv4Network("0.0.0.0/8") or address.is_link_local
            special = address.is_loopback or address.is_multicast or address.is_reserved
            nearby = any(address in near for link in pod.interfaces for near in link.networks)
            if not (nowhere or special or nearby or ip_address(INTERNET[version]) in network):
                yield str(address)


def _sent(pod: Pod, who: Actor, attempt: Attempt) -> tuple[Journey, Packet]:
    """What the attempt sends, as the rules of the pod see it."""
    address = ip_address(attempt.to.address)
    links = [(link.name, network) for link in pod.interfaces for network in link.networks]
    interface = attempt.interface or next((n for n, near in links if address in near), "eth0")
    in_pod = address.is_loopback or any(address == near[2] for _, near in links)
    direction = Direction.IN if attempt.who == "outside" else Direction.OUT
    if in_pod and direction is Direction.OUT:
        interface = "lo"
    source = ip_address(pod.address(address.version))
    if direction is Direction.IN:
        source = ip_address(pod.neighbour(address.version, pod.interfaces[0].name))
    ends = read_address(str(source)), 40000, read_address(str(address)), attempt.to.port
    packet = Packet(direction, "tcp", *ends, interface, who.uid, who.gid)
    return Journey(packet.family, direction, in_pod), packet


def _expected(
    config: Config, actors: Mapping[str, Actor], attempt: Attempt, journey: Journey, packet: Packet
) -> list[str]:
    """Who may answer: what the flags promise, told from what they mean and not from the rules."""
    clause = promised(config, journey, packet)
    there = ("app", "proxy") if journey.local else ("outside",)
    direct = next(n for n in there if attempt.to.port in actors[n].ports or n == there[-1])
    # By a -k interface comes what is for an address that is not the pod's, and a pod is no router.
    straight = TIMEOUT if attempt.interface else f"{direct} :{attempt.to.port}"
    ends = sorted(clause.ends if clause.promise else (), key=lambda port: port or 0, reverse=True)
    return [f"proxy :{port}" if port else straight for port in ends]


def _shown(answer: Answer, to: Endpoint) -> str:
    if answer.local is None:
        return answer.who
    lost = "" if answer.destination == to else f" for {answer.destination}"
    who = answer.who if ":" in answer.who else f"{answer.who} :{answer.local.port}"
    return who + lost


if __name__ == "__main__":
    leave_blocks_on_signals()
    try:
        sys.exit(main(sys.argv[1:]))
    except BadCall as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
