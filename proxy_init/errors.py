"""What can go wrong, and the exit status that says so."""

from collections.abc import Sequence

from .frozen import frozen


class ProxyInitError(Exception):
    """A failure that a person can act on; its text is one line or more, each complete."""

    exit_status = 1


@frozen
class Mistake:
    """One thing that is wrong with a call: where it stands, what was read, what is allowed."""

    source: str
    item: str | None
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        got = "" if self.item is None else f"got {shown(self.item)}, "
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.source}: {got}{self.expected}{hint}"


class BadCall(ProxyInitError):
    """The call itself is wrong; nothing was read from or written to the kernel."""

    exit_status = 2

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


class NodeCannot(ProxyInitError):
    """This node or container lacks something: a capability, a table, a match, a target."""

    exit_status = 4


class ApplyFailed(ProxyInitError):
    """The kernel did not take the rules; it holds what it held before."""


class ValidationFailed(ProxyInitError):
    """A probe went elsewhere than the flags say; repair controllers know the number."""

    exit_status = 126


def shown(text: str, limit: int = 80) -> str:
    """`text` in quotes, on one line, with control characters escaped, cut at `limit` characters."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
