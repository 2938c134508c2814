"""The options of match and target extensions, as iptables spells them."""

from __future__ import annotations

from ..frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol, TypeAlias, TypeVar

    class Spelled(Protocol):
        """A match or target that iptables spells with options."""

        def options(self) -> tuple[Option, ...]: ...

    Known = TypeVar("Known", bound=Spelled)
    Unknown = TypeVar("Unknown")
    Spellings: TypeAlias = Mapping[tuple[str, tuple[str, ...]], Callable[..., Known]]


class Option(Frozen):
    """One option of a match or target extension, as iptables spells it: `! --name value`."""

    name: str
    value: str = ""
    negated: bool = False

    @property
    def number(self) -> int:
        """The value as a number, without a mask if it has one. Raises ValueError."""
        return int(self.value.partition("/")[0], 0)


def read_spelling(
    spellings: Spellings[Known], name: str, options: Sequence[Option], unknown: Unknown
) -> Known | Unknown:
    """The match or target that `spellings` has for an extension with these options. `unknown` if it
    has none, or if the one it has would be spelled differently (a range, a mask)."""
    read = spellings.get((name, tuple(option.name for option in options)))
    if read is None:
        return unknown
    try:
        known = read(*options)
    except ValueError:
        return unknown
    return known if known.options() == tuple(options) else unknown
