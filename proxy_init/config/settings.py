"""Values by the flag's name: each read by a function of values.py, and every mistake kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import Mistake
from ..rules.networks import Address, Network
from . import values
from .command_line import Setting, is_flag
from .config import EVERYTHING, OLD_RULES, Everything
from .flags import Flag, FlagKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from .machine import Machine

    T = TypeVar("T")

MOST_MISTAKES_A_LIST = 10


class Settings:
    """Reads values by the flag's name, and keeps every mistake."""

    def __init__(
        self,
        given: Mapping[str, Setting],
        environ: Mapping[str, str],
        machine: Machine,
        extra: Sequence[Flag] = (),
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        self.given = given
        self.environ = environ
        self.machine = machine
        self.extra = extra
        self.mistakes: list[Mistake] = [*mistakes]

    @property
    def old_rules(self) -> bool:
        """Whether the rule set 1.0 is asked for, which has manners of its own."""
        return "ruleset" in self.given and self.given["ruleset"].text.strip() == OLD_RULES

    def source(self, name: str) -> str:
        """Where the value of a flag was given; nothing if it was not."""
        return self.given[name].source if name in self.given else ""

    def one(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """A flag's single value."""
        given = self.given.get(name)
        if given is None:
            return default
        return self._parsed(given.source, given.text.strip(), parse, default)

    def own(self) -> Mapping[str, Setting]:
        """What was given of the command's own options."""
        given = {flag.name: self.given[flag.name] for flag in self.extra if flag.name in self.given}
        for flag in self.extra:
            check = values.switch if flag.kind is FlagKind.SWITCH else flag.check
            if check:
                self.one(flag.name, check, None)
        return given

    def variable(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The single value of a variable that has no flag."""
        text = self.environ.get(name, "").strip()
        return self._parsed(name, text, parse, default) if text else default

    def switch(self, name: str, default: bool = False) -> bool:
        """Whether a switch is on."""
        on = self.one(name, values.switch, default)
        return on != (name in self.given and self.given[name].opposite)

    def many(self, name: str, parse: Callable[[str], T], file: bool = False) -> tuple[T, ...]:
        """A flag's list; with `file`, it may stand in a file that `@path` names."""
        given = self.given.get(name)
        if given is None:
            return ()
        text = given.text.strip()
        if file and text.startswith("@"):
            return self._list(given.source, self._file_items(given.source, text), parse)
        return self._list(given.source, values.items(text), parse)

    def everything_or(
        self, name: str, parse: Callable[[str], T], default: tuple[T, ...] | Everything = ()
    ) -> tuple[T, ...] | Everything:
        """A flag's list, or all."""
        given = self.given.get(name)
        if given is None:
            return default
        if values.items(given.text) == ["*"]:
            return EVERYTHING
        return self.many(name, parse, file=True)

    def variable_items(self, name: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """The list of a variable that has no flag."""
        return self._list(name, values.items(self.environ.get(name, "")), parse)

    def _file_items(self, source: str, text: str) -> list[str]:
        try:
            return values.file_items(self.machine.read_text(text[1:]))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.mistakes.append(Mistake(source, text, f"expected a readable file: {reason}"))
            return []

    def _list(self, source: str, items: list[str], parse: Callable[[str], T]) -> tuple[T, ...]:
        already = len(self.mistakes)
        parsed: list[T] = []
        for item in items:
            value = self._parsed(source, item, parse, None)
            if value is not None:
                parsed.append(value)
        # A wrong file of 10,000 lines should not fill the log.
        more = len(self.mistakes) - already - MOST_MISTAKES_A_LIST
        if more > 0:
            del self.mistakes[-more:]
            self.mistakes.append(Mistake(source, None, f"and {more} more items like these"))
        return tuple(parsed)

    def _parsed(self, source: str, item: str, parse: Callable[[str], T], default: T) -> T:
        try:
            return parse(item)
        except values.BadValue as bad:
            hint = bad.hint
            if is_flag(item, self.extra) and source.startswith("-"):
                hint = f'{source} took the next flag as its value: write {source} "" for none'
            self.mistakes.append(Mistake(source, bad.item, f"expected {bad.expected}", hint))
            return default

    def cidr(self, item: str) -> tuple[Network, Address]:
        """A network, and the address as it was written."""
        network, address = values.cidr(item)
        if self.old_rules and network.version == 6:
            raise values.BadValue(item, "an IPv4 CIDR: the rule set 1.0 has no other")
        return network, address

    def user(self, item: str) -> int:
        """A uid, by number or name."""
        return values.owner(item, "user", self.machine.user_id)

    def group(self, item: str) -> int:
        """A gid, by number or name."""
        return values.owner(item, "group", self.machine.group_id)
