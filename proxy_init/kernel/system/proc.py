"""Reads /proc about this process, man 5 proc."""

from __future__ import annotations

from ...errors import NodeCannot
from ...light import os
from ...rules.matches import OwnerGid, OwnerUid
from ...rules.model import BUILT_IN, Family, Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def read(path: str) -> str:
    """The text of a file below /proc.

    Raises OSError, and NodeCannot where /proc is not mounted: elsewhere, that a file is not there
    says that the kernel lacks something.
    """
    try:
        with open(path) as file:  # noqa: PTH123  loading pathlib takes 5 ms
            return file.read()
    except FileNotFoundError:
        if os.access("/proc/self", os.F_OK):
            raise
        raise NodeCannot(
            "/proc is not mounted here, so the state of the kernel can't be read; "
            "mount -t proc proc /proc"
        ) from None


def legacy_tables(family: Family) -> tuple[str, ...]:
    """The tables that this namespace has; the kernel makes one when it is first read."""
    prefix = "ip" if family is Family.V4 else "ip6"
    try:
        names = read(f"/proc/self/net/{prefix}_tables_names").split()
    except FileNotFoundError:
        return ()
    except OSError:  # readable for root only
        return tuple(BUILT_IN)
    return tuple(name for name in BUILT_IN if name in names)


def unmapped_owners(rulesets: Sequence[Ruleset]) -> str:
    """The uids and gids of the rules that this user namespace does not know, as words, and what to
    do about it; nothing where it knows all."""
    owners = {
        ("uid", match.uid) if isinstance(match, OwnerUid) else ("gid", match.gid)
        for ruleset in rulesets
        for rule in ruleset.rules
        for match in rule.matches
        if isinstance(match, OwnerUid | OwnerGid)
    }
    lacking = [f"{kind} {number}" for kind, number in sorted(owners) if not _mapped(kind, number)]
    if not lacking:
        return ""
    return (
        f"this user namespace does not know {', '.join(lacking)} (/proc/self/uid_map, gid_map): "
        "run without a user namespace (hostUsers: true), or map them"
    )


def _mapped(kind: str, number: int) -> bool:
    try:
        text = read(f"/proc/{os.getpid()}/{kind}_map")
    except OSError:
        return True
    ranges = [tuple(map(int, line.split())) for line in text.splitlines()]
    return any(first <= number < first + count for first, _, count in ranges)
