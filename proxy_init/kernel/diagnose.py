"""After a refusal of the kernel: what this node or container lacks, and the remedy."""

import errno
from collections.abc import Iterator

from ..errors import ApplyFailed, NodeCannot, ProxyInitError
from .backend import Task
from .needs import needs
from .system.modules import State
from .system.proc import unmapped_owners
from .system.refusal import KernelRefused


def explained(refused: KernelRefused, task: Task) -> ProxyInitError:
    """The error to show for a refusal: what is missing, or else what the kernel said."""
    missing = list(what_is_missing(task))
    said = f"{task.title} {refused}" if len(task.rulesets) == 1 else str(refused)
    if missing:
        return NodeCannot("\n".join([f"the kernel refused: {said}", *missing]))
    if refused.remedy:
        return NodeCannot(f"the kernel refused: {said}; {refused.remedy}")
    unmapped = unmapped_owners(task.rulesets)
    if refused.number == errno.EINVAL and unmapped:
        return NodeCannot(f"the kernel refused: {said}\n{unmapped}")
    if refused.number == errno.EPERM:
        return NodeCannot(
            f"the kernel refused: {said}\nthe capabilities are there, but they do not reach this "
            "network namespace (it belongs to another user namespace), or seccomp forbids it"
        )
    return ApplyFailed(f"the kernel refused: {said}")


def what_is_missing(task: Task) -> Iterator[str]:
    """Every capability, table, match and target that a task needs and the node lacks."""
    return (str(need) for need in needs(task, write=True) if need.state is State.MISSING)
