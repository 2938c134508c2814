"""When the kernel says no: what is missing on this node or in this container, and the remedy.

Nothing here writes. Sources: linux/capability.h, linux/netfilter_ipv4/ip_tables.h,
linux/netfilter_ipv6/ip6_tables.h.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

from ..errors import ApplyFailed, NodeCannot, ProxyInitError
from ..matches import Destination, InInterface, OutInterface, OwnerGid, OwnerUid, Protocol, Source
from ..model import Family, Ruleset
from .proc import read
from .refusal import KernelRefused

CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13}
_GET_REVISION = {
    (Family.V4, "match"): (socket.SOL_IP, 66),
    (Family.V4, "target"): (socket.SOL_IP, 67),
    (Family.V6, "match"): (41, 68),
    (Family.V6, "target"): (41, 69),
}
# libxtables puts the one in for the other.
_ALIASES = {"state": "conntrack"}
_MODULES = {"tcp": "xt_tcpudp", "udp": "xt_tcpudp", "REJECT": "ip6t_REJECT"}


def explained(refused: KernelRefused, ruleset: Ruleset) -> ProxyInitError:
    """The error to show for a refusal: what is missing if anything is, else what was said."""
    missing = list(what_is_missing(ruleset))
    said = f"{ruleset.family.title} {refused}"
    if missing:
        return NodeCannot("\n".join([f"the kernel refused: {said}", *missing]))
    if refused.remedy:
        return NodeCannot(f"the kernel refused: {said}; {refused.remedy}")
    unmapped = _unmapped_owners(ruleset)
    if refused.number == errno.EINVAL and unmapped:
        return NodeCannot(
            f"the kernel refused: {said}\n{unmapped}: run without a user namespace "
            "(hostUsers: true), or map them"
        )
    if refused.number == errno.EPERM:
        return NodeCannot(
            f"the kernel refused: {said}\nthe capabilities are there, but they do not reach this "
            "network namespace (it belongs to another user namespace), or seccomp forbids it"
        )
    return ApplyFailed(f"the kernel refused: {said}")


def what_is_missing(ruleset: Ruleset) -> Iterator[str]:
    """Every capability, table, match and target that `ruleset` needs and that is not there."""
    capabilities = list(missing_capabilities())
    if capabilities:
        # Without them, nothing else can be found out.
        names = " and ".join(capabilities)
        listed = ", ".join(CAPABILITIES)
        yield (
            f"missing capability {names}: give the init container securityContext.capabilities."
            f"add: [{listed}], or by hand use sudo"
        )
        return
    for table in ruleset.tables:
        if not _has_table(ruleset.family, table.name):
            prefix = "ip" if ruleset.family is Family.V4 else "ip6"
            module = f"{prefix}table_{table.name}"
            yield (
                f"missing table {table.name} for {ruleset.family.title}: on the node, "
                f"modprobe {module}; a kernel without it has no legacy iptables"
            )
    for kind, name in sorted(_extensions(ruleset)):
        if not _has_extension(ruleset.family, kind, name):
            module = _MODULES.get(name, f"xt_{name}")
            yield (
                f"missing {kind} {name} for {ruleset.family.title}: on the node, modprobe {module}"
            )


def missing_capabilities() -> Iterator[str]:
    """Those of the capabilities needed that this process does not have in effect."""
    try:
        status = read("/proc/self/status")
    except OSError:
        return
    effective = next(
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")
    )
    for name, bit in CAPABILITIES.items():
        if not effective >> bit & 1:
            yield name


def _extensions(ruleset: Ruleset) -> set[tuple[str, str]]:
    header = Source | Destination | InInterface | OutInterface | Protocol
    needed: set[tuple[str, str]] = set()
    for rule in ruleset.rules:
        needed.update(
            ("match", _ALIASES.get(m.name, m.name))
            for m in rule.matches
            if not isinstance(m, header)
        )
        if rule.target.options():
            needed.add(("target", rule.target.name))
    return needed


def _has_table(family: Family, name: str) -> bool:
    # struct ipt_getinfo begins with the table's name in 32 bytes; IPT_SO_GET_INFO is 64.
    level = socket.SOL_IP if family is Family.V4 else 41
    return _getsockopt(family, level, 64, struct.pack("32s52x", name.encode())) == 0


def _has_extension(family: Family, kind: str, name: str) -> bool:
    """Whether the kernel has any revision of it; asking makes the kernel load its module."""
    level, option = _GET_REVISION[family, kind]
    asked = (
        _getsockopt(family, level, option, struct.pack("29sB", name.encode(), revision))
        for revision in range(4)
    )
    return any(answer == 0 for answer in asked)


def _getsockopt(family: Family, level: int, option: int, question: bytes) -> int:
    """getsockopt() whose buffer carries a question, which Python's own can't; gives the errno."""
    domain = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    buffer = ctypes.create_string_buffer(question, len(question))
    size = ctypes.c_uint32(len(question))
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            failed = libc.getsockopt(raw.fileno(), level, option, buffer, ctypes.byref(size))
    except OSError as error:
        return error.errno or errno.EINVAL
    return ctypes.get_errno() if failed else 0


def _unmapped_owners(ruleset: Ruleset) -> str:
    """The uids and gids of the rules that this user namespace does not know, as words."""
    owners = {
        ("uid", match.uid) if isinstance(match, OwnerUid) else ("gid", match.gid)
        for rule in ruleset.rules
        for match in rule.matches
        if isinstance(match, OwnerUid | OwnerGid)
    }
    lacking = [f"{kind} {number}" for kind, number in sorted(owners) if not _mapped(kind, number)]
    if not lacking:
        return ""
    return f"this user namespace does not know {', '.join(lacking)} (/proc/self/uid_map, gid_map)"


def _mapped(kind: str, number: int) -> bool:
    try:
        text = read(f"/proc/{os.getpid()}/{kind}_map")
    except OSError:
        return True
    ranges = [tuple(map(int, line.split())) for line in text.splitlines()]
    return any(first <= number < first + count for first, _, count in ranges)
