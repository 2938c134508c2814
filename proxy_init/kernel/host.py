"""What the configuration asks the machine: users, groups, files and addresses. Changes nothing."""

import os
import socket
import stat
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ..errors import ApplyFailed

MOST_BYTES = 16 * 1024 * 1024


class Host:
    """The machine that the program runs on, as `config.Machine` wants it."""

    def user_id(self, name: str) -> int | None:
        """The uid of a user of this container, or None."""
        import pwd

        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def group_id(self, name: str) -> int | None:
        """The gid of a group of this container, or None."""
        import grp

        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def read_text(self, path: str) -> str:
        """The text of a regular file of at most 16 MiB. Raises OSError."""
        # O_NONBLOCK: a pipe in the file's place must not make us wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "not a regular file")
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise OSError(0, "larger than 16 MiB")
        return data.decode("utf-8", "surrogateescape")


def addresses() -> tuple[IPv4Address | IPv6Address, ...]:
    """All of this namespace's addresses, IPv4 first, as the kernel lists them.

    Raises ApplyFailed.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            return tuple(
                ip_address(message.get("local") or message.get("address"))
                for family in (socket.AF_INET, socket.AF_INET6)
                for message in netlink.get_addr(family=family)
            )
    except (NetlinkError, OSError) as error:
        reason = os.strerror(error.code if isinstance(error, NetlinkError) else error.errno or 0)
        raise ApplyFailed(f"this namespace's addresses can't be read: {reason}") from error


def global_addresses() -> tuple[IPv4Address | IPv6Address, ...]:
    """This namespace's addresses of more than link scope, IPv4 first, as the kernel lists them.

    Our own ::6 on lo does not count: it is there for the proxy, and no way into the pod.
    Raises ApplyFailed.
    """
    if not _has_ipv6_address():
        # Without any, nothing depends on the rest, and loading pyroute2 takes 0.1 s.
        return ()
    return tuple(address for address in addresses() if is_global(address))


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 at all."""
    return Path("/proc/self/net/if_inet6").exists()


def _has_ipv6_address() -> bool:
    try:
        lines = Path("/proc/self/net/if_inet6").read_text().splitlines()
    except FileNotFoundError:  # the kernel has no IPv6
        return False
    except OSError:
        return True
    return any(is_global(IPv6Address(bytes.fromhex(line.split()[0]))) for line in lines)


def is_global(address: IPv4Address | IPv6Address) -> bool:
    """Whether others may reach the pod by the address."""
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address == IPv6Address("::6")
    )
