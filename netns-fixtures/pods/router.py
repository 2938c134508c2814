"""A router between a client and a server, each a network namespace of its own.

client                     router                          server
eth0  192.0.2.2   ------   to-client  192.0.2.1
      2001:db8::2                     2001:db8::1
                           to-server  198.51.100.1  ----   eth0  198.51.100.2
                                      2001:db8:1::1              2001:db8:1::2
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network

from pyroute2 import IPRoute

from pods import namespace
from pods.pod import LOOPBACK, Interface, bring_up, set_up_pod, write_settings

NEAR = Interface("eth0", (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")))
FAR = Interface("eth0", (ip_network("198.51.100.0/24"), ip_network("2001:db8:1::/64")))

SETTINGS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    # A neighbour is asked for from the link-local address, which must not be tentative.
    "ipv6/conf/default/accept_dad": "0",
}


@dataclass(frozen=True, slots=True)
class Router:
    """A router that is up. `client`, `namespace` (its own) and `server` are `ip netns` names."""

    client: str
    namespace: str
    server: str

    def client_address(self, version: int) -> str:
        """Where the client is (4 or 6)."""
        return _host(NEAR, version)

    def server_address(self, version: int) -> str:
        """Where the server is (4 or 6)."""
        return _host(FAR, version)

    def address_near_server(self, version: int) -> str:
        """The router's own address (4 or 6) on the server's link."""
        return _host(FAR, version, host=1)


def _host(link: Interface, version: int, host: int = 2) -> str:
    return next(str(network[host]) for network in link.networks if network.version == version)


@contextmanager
def make_router() -> Iterator[Router]:
    """A router that forwards both families, which ends with the block.

    Raises OSError where the kernel refuses.
    """
    with (
        namespace.namespace("client") as client,
        namespace.namespace("router") as router,
        namespace.namespace("server") as server,
    ):
        ends = [("to-client", NEAR, client), ("to-server", FAR, server)]
        namespace.call(router, partial(_set_up_router, ends))
        for _, link, name in ends:
            namespace.call(name, partial(set_up_pod, [link]))
        yield Router(client, router, server)


def _set_up_router(ends: Sequence[tuple[str, Interface, str]]) -> None:
    write_settings(SETTINGS)
    with IPRoute() as kernel:
        kernel.link("set", index=LOOPBACK, state="up")
        for name, link, beyond in ends:
            peer = {"ifname": link.name, "net_ns_fd": beyond}
            kernel.link("add", kind="veth", ifname=name, peer=peer)
            bring_up(kernel, name, link.networks, host=1)
