"""Who listens in a network namespace, as far as it matters for redirected packets. Pure."""

from dataclasses import dataclass

from ..rules.model import Family
from ..rules.networks import Address


@dataclass(frozen=True)
class Listener:
    """A socket that takes connections, or UDP packets from anywhere.

    `transparent` says whether it takes what TPROXY brings, None if the kernel does not tell.
    `both` is whether one for IPv6 takes IPv4, too.
    """

    protocol: str
    address: Address
    port: int
    uid: int
    transparent: bool | None = None
    both: bool = False

    def takes(self, protocol: str, port: int, family: Family) -> bool:
        """Whether it listens on a port for a family, on whatever address."""
        families = {4, 6} if self.both and self.address.is_unspecified else {self.address.version}
        return (self.protocol, self.port) == (protocol, port) and family.value in families
