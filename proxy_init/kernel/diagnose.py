"""When the kernel says no: what is missing on this node or in this container, and the remedy."""

import errno
import os
from collections.abc import Iterator

from ..errors import ApplyFailed, NodeCannot, ProxyInitError
from ..rules.matches import OwnerGid, OwnerUid
from ..rules.model import Ruleset
from .backend import Task
from .needs import needs
from .system.modules import State
from .system.proc import read
from .system.refusal import KernelRefused


def explained(refused: KernelRefused, task: Task) -> ProxyInitError:
    """The error to show for a refusal: what is missing if anything is, else what was said."""
    missing = list(what_is_missing(task))
    ruleset = task.ruleset
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


def what_is_missing(task: Task) -> Iterator[str]:
    """Every capability, table, match and target that a task needs and that is not there."""
    return (str(need) for need in needs(task, write=True) if need.state is State.MISSING)


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
