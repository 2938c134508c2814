"""Which tables of nf_tables there are, without loading what reads them."""

from struct import pack

from ...rules.model import BUILT_IN, Family
from ..system.netlink import NETFILTER, Message, attributes, connected, to_text

SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
GET_TABLE = 1
INET, IPV4, IPV6 = 1, 2, 10  # linux/netfilter.h, NFPROTO_…
_OURS = "istio-proxy-"
_FAMILIES = {IPV4: Family.V4, IPV6: Family.V6}


def body(family: int, *parts: bytes, resource: int = 0) -> bytes:
    """A message of nf_tables: struct nfgenmsg, and its attributes."""
    return pack("=BB", family, 0) + pack("!H", resource) + b"".join(parts)


def names() -> frozenset[tuple[Family | None, str]]:
    """Those tables of ours, which have no family, and of iptables-nft that this namespace has, by
    the model's names. Raises OSError.
    """
    found: set[tuple[Family | None, str]] = set()
    with connected(NETFILTER) as connection:
        for answer in connection.dump(Message(SUBSYSTEM | GET_TABLE, body(0))):
            family, name = answer[0], to_text(attributes(answer[4:])[1])
            if family == INET and name.startswith(_OURS):
                found.add((None, name.removeprefix(_OURS)))
            elif family in _FAMILIES and name in BUILT_IN:
                found.add((_FAMILIES[family], name))
    return frozenset(found)
