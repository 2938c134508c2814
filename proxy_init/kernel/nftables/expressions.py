"""What a rule of nf_tables is made of: expressions, which load, compare and act in their order.

Here are their bytes, both ways; what they mean together is for codec.py.
Source: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from struct import pack

from ..system.netlink import (
    Attributes,
    attribute,
    attributes,
    each_attribute,
    nested,
    number,
    text,
    to_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

Load: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""What an expression loads: its name and key; of `payload`, the base, the offset and the length."""

META_MARK, META_IIF, META_OIF, META_IIFNAME, META_OIFNAME = 3, 4, 5, 6, 7
META_PROTOCOL, META_SKUID, META_SKGID, META_NFPROTO, META_L4PROTO = 1, 10, 11, 15, 16
CT_STATE, CT_MARK, CT_ZONE = 0, 3, 17
SOCKET_WILDCARD = 2
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
EQUAL, NOT_EQUAL = 0, 1
ICMP_UNREACHABLE = 0  # enum nft_reject_types
VERDICTS = {0: "DROP", 1: "ACCEPT", -5: "RETURN"}
JUMP, GOTO = -3, -4
_CODES = {name: code for code, name in VERDICTS.items()}

# The register that all of ours use; 0 takes the verdict.
_REGISTER = 1
VERDICT_REGISTER = 0
_ELEMENT = 1
_NAME, _DATA = 1, 2
_VALUE, _VERDICT = 1, 2
_CODE, _CHAIN = 1, 2
# By expression, the attributes for the key, for the register that it loads to, and for the one that
# it sets its key from.
_LOADING = {"meta": (2, 1, 3), "ct": (2, 1, 4), "socket": (1, 2, 0)}


def expression(name: str, *parts: bytes) -> bytes:
    """One element of a rule's list of expressions."""
    return nested(_ELEMENT, text(_NAME, name), nested(_DATA, *parts))


def each_expression(data: bytes) -> Iterator[tuple[str, Attributes]]:
    """The expressions of a rule's list, each by its name and its attributes."""
    for _, element in each_attribute(data):
        parts = attributes(element)
        yield to_text(parts[_NAME]), attributes(parts.get(_DATA, b""))


def value(data: bytes) -> bytes:
    """What a nested NFTA_DATA_VALUE holds."""
    return attributes(data).get(_VALUE, b"")


def verdict(data: bytes) -> tuple[int, str]:
    """What a nested NFTA_DATA_VERDICT holds: its code, and the chain that it leads to."""
    parts = attributes(attributes(data).get(_VERDICT, b""))
    code = int.from_bytes(parts.get(_CODE, b""), "big", signed=True)
    return code, to_text(parts.get(_CHAIN, b""))


def loaded(name: str, parts: Attributes) -> tuple[int, Load] | None:
    """What an expression loads, and to which register; None where it is of another kind."""
    if name == "payload" and 1 in parts:
        _, base, offset, length = (int.from_bytes(parts[kind], "big") for kind in (1, 2, 3, 4))
        return int.from_bytes(parts[1], "big"), (name, base, offset, length)
    if name in _LOADING:
        key, to, _ = _LOADING[name]
        if to in parts and parts.keys() <= {key, to}:
            return int.from_bytes(parts[to], "big"), (name, int.from_bytes(parts[key], "big"))
    return None


def stored(name: str, parts: Attributes) -> tuple[int, Load] | None:
    """What an expression sets, and from which register; None where it is of another kind."""
    if name in ("meta", "ct"):
        key, _, source = _LOADING[name]
        if parts.keys() == {key, source}:
            return int.from_bytes(parts[source], "big"), (name, int.from_bytes(parts[key], "big"))
    return None


def load(what: Load) -> bytes:
    """Load something of the packet."""
    if len(what) == 4:
        return expression("payload", number(1, _REGISTER), *map(number, (2, 3, 4), what[1:]))
    key, to, _ = _LOADING[what[0]]
    return expression(what[0], number(key, what[1]), number(to, _REGISTER))


def store(what: tuple[str, int]) -> bytes:
    """Set something of the packet, or of its connection, to what is loaded."""
    key, _, source = _LOADING[what[0]]
    return expression(what[0], number(key, what[1]), number(source, _REGISTER))


def masked(mask: bytes) -> bytes:
    """Keep of what is loaded only the bits of the mask."""
    return expression(
        "bitwise",
        *(number(1, _REGISTER), number(2, _REGISTER), number(3, len(mask))),
        *(nested(4, attribute(_VALUE, mask)), nested(5, attribute(_VALUE, bytes(len(mask))))),
    )


def compared(operator: int, data: bytes) -> bytes:
    """Go on only if what is loaded is, or is not, `data`."""
    return expression(
        "cmp", number(1, _REGISTER), number(2, operator), nested(3, attribute(_VALUE, data))
    )


def looked_up(name: str) -> bytes:
    """Go on only if what is loaded is in a set."""
    return expression("lookup", text(1, name), number(2, _REGISTER))


def constant(data: bytes) -> bytes:
    """Load a constant."""
    return expression("immediate", number(1, _REGISTER), nested(2, attribute(_VALUE, data)))


def judged(name: str) -> bytes:
    """ACCEPT, DROP or RETURN."""
    return _immediate(number(_CODE, _CODES[name]))


def led(code: int, chain: str) -> bytes:
    """JUMP or GOTO a chain."""
    return _immediate(number(_CODE, code), text(_CHAIN, chain))


def _immediate(*parts: bytes) -> bytes:
    return expression("immediate", number(1, VERDICT_REGISTER), nested(2, nested(_VERDICT, *parts)))


def counter(packets: int = 0, size: int = 0) -> bytes:
    """Count, from so many on."""
    return expression("counter", attribute(1, pack("!Q", size)), attribute(2, pack("!Q", packets)))


def redirected() -> bytes:
    """To the port of this machine that is loaded."""
    return expression("redir", number(1, _REGISTER))


def transparently(family: int) -> bytes:
    """To a transparent listener on the port that is loaded, for a family, or for 0 both."""
    return expression("tproxy", number(1, family), number(3, _REGISTER))


def rejected(code: int) -> bytes:
    """Answer with an ICMP message of the packet's own family: unreachable, and which kind."""
    return expression("reject", number(1, ICMP_UNREACHABLE), attribute(2, bytes([code])))
