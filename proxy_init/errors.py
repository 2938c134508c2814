"""The exceptions of the program, each with its exit status."""

from __future__ import annotations

from .frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class ProxyInitError(Exception):
    """A failure that the user can act on; each line of its message is complete in itself."""

    exit_status = 1


class Mistake(Frozen):
    """One error in a call: where it is, what was read, what is allowed."""

    source: str
    item: str | None
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        got = "" if self.item is None else f"got {shown(self.item)}, "
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.source}: {got}{self.expected}{hint}"


class BadCall(ProxyInitError):
    """The call is invalid. The rules in the kernel were neither read nor changed."""

    exit_status = 2

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


class NodeCannot(ProxyInitError):
    """The node or container lacks a requirement: a capability, a table, a match, a target."""

    exit_status = 4


class ApplyFailed(ProxyInitError):
    """The rules could not be applied; the kernel still holds its previous ones."""


class ValidationFailed(ProxyInitError):
    """A probe did not go where the flags send it; repair controllers look for this status."""

    exit_status = 126


def shown(text: str, limit: int = 80) -> str:
    """`text` quoted on one line, cut at `limit` characters, with control characters escaped."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
