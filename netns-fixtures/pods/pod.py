"""A throwaway pod: one network namespace for the pod, one for everything outside it.

      pod                                            outside
      eth0  192.0.2.2/24, 2001:db8::2/64    ------   to-eth0  192.0.2.1, 2001:db8::1
      eth1  172.16.1.2/24, 2001:db8:1::2/64 ------   to-eth1  172.16.1.1, 2001:db8:1::1

The pod's default route leaves by eth0. The outside takes every address for its own, so that a
listener there on a wildcard address is any server of the internet.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pyroute2 import IPRoute

from pods import namespace

# One's own ENVOY_PORT or PROXY_UID must not decide what a test finds; and root's own PATH may lack
# the directories where iptables is.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
}

LOOPBACK = 1  # index of lo in every namespace
LOCAL_TABLE = 255
NO_DAD = 0x02  # IFA_F_NODAD: without it an IPv6 address is of no use for a second

# As container runtimes do, so that applications may listen on port 80.
POD_SETTINGS = {"ipv4/ip_unprivileged_port_start": "0"}
OUTSIDE_SETTINGS = {
    "ipv4/ip_unprivileged_port_start": "0",
    # Speak from, and hear from, addresses that are on no interface.
    "ipv4/ip_nonlocal_bind": "1",
    "ipv6/ip_nonlocal_bind": "1",
    "ipv4/conf/all/accept_local": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # A neighbour is asked for from the link-local address, which must not be tentative either.
    "ipv6/conf/default/accept_dad": "0",
}


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of the pod; its peer in the outside namespace is called `to-<name>`."""

    name: str
    networks: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that is up. `namespace` and `outside` are `ip netns` names."""

    namespace: str
    outside: str
    interfaces: tuple[Interface, ...]

    def address(self, version: int, interface: str = "eth0") -> str:
        """The pod's own address (4 or 6) on an interface; LookupError if it has none."""
        return str(self._network(version, interface)[2])

    def neighbour(self, version: int, interface: str = "eth0") -> str:
        """The address (4 or 6) that the outside has on the other end of an interface."""
        return str(self._network(version, interface)[1])

    def run(
        self,
        args: Sequence[str],
        *,
        uid: int = 0,
        gid: int = 0,
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the pod; see `pods.namespace.run`."""
        return namespace.run(self.namespace, args, uid=uid, gid=gid, env=env, timeout=timeout)

    def apply(
        self, *flags: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run this repository's proxy-init in the pod, with ENVIRONMENT and `env` for variables."""
        variables = ENVIRONMENT | dict(env or {})
        return self.run([sys.executable, "-m", "proxy_init", *flags], env=variables)

    def save(self, version: int, table: str | None = None) -> str:
        """What iptables-legacy-save (4) or ip6tables-legacy-save (6) prints for the pod, or those
        of the backend that ENVIRONMENT names.

        Counters are zeroed and comment lines dropped. Naming a table brings it into being, empty.
        """
        backend = ENVIRONMENT.get("PROXY_INIT_BACKEND", "legacy")
        program = f"ip{'6' if version == 6 else ''}tables-{backend}-save"
        saved = self.run([program, *(["-t", table] if table else [])], env=ENVIRONMENT)
        saved.check_returncode()
        lines = [line for line in saved.stdout.splitlines(True) if not line.startswith("#")]
        return re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1 [0:0]", "".join(lines), flags=re.M)

    def _network(self, version: int, name: str) -> IPv4Network | IPv6Network:
        for interface in self.interfaces:
            for network in interface.networks:
                if (interface.name, network.version) == (name, version):
                    return network
        raise LookupError(f"this pod has no IPv{version} address on {name}")


@contextmanager
def make_pod(
    *, ipv4: bool = True, ipv6: bool = True, interfaces: Sequence[str] = ("eth0",)
) -> Iterator[Pod]:
    """A pod with the addresses asked for (none is possible too), which ends with the block.

    Loopback has 127.0.0.1 and ::1 in any case. Raises OSError where the kernel refuses.
    """
    links = tuple(
        Interface(name, tuple(_networks(index, ipv4=ipv4, ipv6=ipv6)))
        for index, name in enumerate(interfaces)
    )
    with namespace.namespace("pod") as pod, namespace.namespace("outside") as outside:
        namespace.call(outside, partial(_set_up_outside, links, pod))
        namespace.call(pod, partial(set_up_pod, links))
        yield Pod(pod, outside, links)


def _networks(index: int, *, ipv4: bool, ipv6: bool) -> Iterator[IPv4Network | IPv6Network]:
    if ipv4:
        yield IPv4Network(f"172.16.{index}.0/24" if index else "192.0.2.0/24")
    if ipv6:
        yield IPv6Network(f"2001:db8:{index:x}::/64")


def _set_up_outside(links: Sequence[Interface], pod: str) -> None:
    write_settings(OUTSIDE_SETTINGS)
    with IPRoute() as kernel:
        kernel.link("set", index=LOOPBACK, state="up")
        for everything in ("0.0.0.0/0", "::/0"):
            kernel.route(
                "add", dst=everything, type="local", oif=LOOPBACK, table=LOCAL_TABLE, scope=254
            )
        for metric, link in enumerate(links, start=1):
            peer = {"ifname": link.name, "net_ns_fd": pod}
            kernel.link("add", kind="veth", ifname=f"to-{link.name}", peer=peer)
            index = bring_up(kernel, f"to-{link.name}", link.networks, host=1)
            for network in link.networks:
                # The local table comes first, so it has to know what is not local after all.
                kernel.route("add", dst=str(network), oif=index, table=LOCAL_TABLE)
                # Only a socket bound to this interface gets past the local table to this route:
                # it may send anything into the pod, as a machine behind a bridge would.
                kernel.route(
                    "add",
                    dst="0.0.0.0/0" if network.version == 4 else "::/0",
                    gateway=str(network[2]),
                    oif=index,
                    priority=metric,
                )


def set_up_pod(links: Sequence[Interface]) -> None:
    """In the pod: its end of each link, and a default route by the first."""
    write_settings(POD_SETTINGS)
    with IPRoute() as kernel:
        kernel.link("set", index=LOOPBACK, state="up")
        for link in links:
            bring_up(kernel, link.name, link.networks, host=2)
        for network in links[0].networks if links else ():
            everything = "0.0.0.0/0" if network.version == 4 else "::/0"
            kernel.route("add", dst=everything, gateway=str(network[1]))


def bring_up(
    kernel: IPRoute, name: str, networks: Sequence[IPv4Network | IPv6Network], *, host: int
) -> int:
    """Give an interface its address in each network, set it up and return its index."""
    (index,) = kernel.link_lookup(ifname=name)
    kernel.link("set", index=index, state="up")
    for network in networks:
        flags = {"flags": NO_DAD} if network.version == 6 else {}
        kernel.addr(
            "add", index=index, address=str(network[host]), prefixlen=network.prefixlen, **flags
        )
    return int(index)


def write_settings(settings: Mapping[str, str]) -> None:
    """Write sysctls, by their path below /proc/sys/net, in this process's namespace."""
    for name, value in settings.items():
        Path("/proc/sys/net", name).write_text(value)
