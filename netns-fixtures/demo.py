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
from ipaddress import IPv4Network, ip_address

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import expected
from pods import ENVIRONMENT, TIMEOUT, Answer, Endpoint, Pod, connect, listener, make_pod
from pods.namespace import leave_blocks_on_signals
from proxy_init.config import EVERYTHING, Config, Everything, settle
from proxy_init.errors import BadCall
from proxy_init.kernel.host import Host
from proxy_init.reading import read_config

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
    if config.network_namespace or not expected.judges(config):
        print("demo: it has its own pod, and can judge mode REDIRECT only", file=sys.stderr)
        return 2
    versions = (4, 6) if config.ipv6 or config.dual_stack else (4,)
    with make_pod(ipv6=6 in versions, interfaces=_interfaces(config)) as pod:
        config = settle(config, [ip_address(pod.address(version)) for version in versions])
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
    right = 0
    with ExitStack() as listening:
        for name, actor in actors.items():
            listening.enter_context(
                listener(actor.namespace, name, actor.ports, uid=actor.uid, gid=actor.gid)
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
            went, wanted = _shown(answer, attempt.to), _expected(config, pod, actors, attempt)
            table.add_row(
                f"{attempt.who} ({who.uid})",
                f"{attempt.to}" + (f" by {attempt.interface}" if attempt.interface else ""),
                went,
                wanted,
                "yes" if went == wanted else "ASTRAY",
                style=None if went == wanted else "bold red",
            )
            right += went == wanted
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table)
    console.print(f"{right} of {table.row_count} connections went where these flags send them.")
    return right == table.row_count


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
        if expected.named(interface.name, config.virtual_interfaces):
            yield Attempt("outside", Endpoint(internet, 80), interface.name)


def _samples(config: Config, pod: Pod, version: int) -> Iterator[str]:
    """An address out of each of the first CIDRs that -i and -x name, where one can be reached."""
    included = () if config.outbound_networks is EVERYTHING else config.outbound_networks
    for networks in (included, config.outbound_excluded_networks):
        for network in [each for each in networks if each.version == version][:2]:
            address = network[1] if network.num_addresses > 1 else network[0]
            nowhere = address in IPv4Network("0.0.0.0/8") or address.is_link_local
            special = address.is_loopback or address.is_multicast or address.is_reserved
            nearby = any(address in near for link in pod.interfaces for near in link.networks)
            if not (nowhere or special or nearby or ip_address(INTERNET[version]) in network):
                yield str(address)


def _expected(config: Config, pod: Pod, actors: Mapping[str, Actor], attempt: Attempt) -> str:
    address = ip_address(attempt.to.address)
    links = [(link.name, network) for link in pod.interfaces for network in link.networks]
    interface = attempt.interface or next((n for n, near in links if address in near), "eth0")
    in_pod = address.is_loopback or any(address == near[2] for _, near in links)
    if attempt.who == "outside":
        port = expected.inbound(config, attempt.to, interface)
    else:
        who = actors[attempt.who]
        interface = "lo" if in_pod else interface
        port = expected.outbound(config, attempt.to, interface, who.uid, who.gid)
    if port is not None:
        return f"proxy :{port}"
    if attempt.interface:
        return TIMEOUT  # for an address that is not the pod's, and a pod is no router
    there = ("app", "proxy") if in_pod else ("outside",)
    return next(f"{n} :{attempt.to.port}" for n in there if attempt.to.port in actors[n].ports)


def _shown(answer: Answer, to: Endpoint) -> str:
    if answer.local is None:
        return answer.who
    lost = "" if answer.destination == to else f" for {answer.destination}"
    return f"{answer.who} :{answer.local.port}{lost}"


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
