"""Reads values by the flag's name, with the functions of values.py, and collects all errors.

Flags are read strictly. A variable may have been set for another program, so the usual spellings
are accepted, and a variable that does not decide what is captured is never an error.
"""

from __future__ import annotations

from ..errors import Mistake, shown
from ..light import partial
from ..rules.networks import Address, Network
from . import values
from .command_line import CommandLine, Setting, is_flag, is_service_link, merge
from .config import OLD_RULES
from .flags import ADVISORY, FLAGS, Flag, FlagKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from .machine import Machine

    T = TypeVar("T")

MAX_LINES_PER_LIST = 10
"""Of errors or warnings: a wrong file of 10,000 lines should not fill the log."""


class Settings:
    """Reads values by the flag's name, and collects errors and warnings."""

    def __init__(
        self,
        line: CommandLine,
        environ: Mapping[str, str],
        machine: Machine,
        extra: Sequence[Flag] = (),
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        self.given = merge(line, environ, extra)
        self.environ = environ
        self.machine = machine
        self.extra = extra
        self.mistakes: list[Mistake] = [*mistakes]
        self.warnings = [
            f"{name} is {shown(environ[name])}: Kubernetes set it for a Service, so it is ignored"
            for flag in FLAGS
            for name in flag.variables.split()
            if flag.name not in line.given and is_service_link(name, environ.get(name, ""))
        ]

    @property
    def old_rules(self) -> bool:
        """Whether the rule set 1.0 is selected, for which some settings are read differently."""
        return "ruleset" in self.given and self.given["ruleset"].text.strip() == OLD_RULES

    def source(self, name: str) -> str:
        """The source of a flag's value; empty if the flag was not given."""
        return self.given[name].source if name in self.given else ""

    def one(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """A flag's single value."""
        given = self.given.get(name)
        if given is None:
            return default
        lenient = given.is_variable and name in ADVISORY
        return self._parsed(given.source, given.text.strip(), parse, default, lenient)

    def choice(self, name: str, default: str, *allowed: str) -> str:
        """A flag's value, one of the allowed words; a variable may have it in any case."""

        def parse(item: str) -> str:
            same = {word.lower(): word for word in allowed} if self._is_variable(name) else {}
            return values.choice(same.get(item.lower(), item), *allowed)

        return self.one(name, parse, default)

    def own(self) -> Mapping[str, Setting]:
        """The given options that only this command has; checks their values."""
        given = {flag.name: self.given[flag.name] for flag in self.extra if flag.name in self.given}
        for flag in self.extra:
            check = values.switch if flag.kind is FlagKind.SWITCH else flag.check
            if check:
                self.one(flag.name, check, None)
        return given

    def switch(
        self,
        name: str,
        default: bool = False,
        of_variable: Callable[[str], bool] = values.switch_of_variable,
    ) -> bool:
        """Whether a switch is on; `of_variable` reads what a variable says."""
        parse = of_variable if self._is_variable(name) else values.switch
        on = self.one(name, parse, default)
        if name not in self.given:
            return on
        for other in self.given[name].overruled:
            self._warn_of_contradiction(self.given[name], on, other, of_variable)
        return on != self.given[name].opposite

    def _warn_of_contradiction(
        self, winner: Setting, on: bool, loser: Setting, parse: Callable[[str], bool]
    ) -> None:
        """Warn if a variable that is overridden contradicts the one in effect."""
        try:
            contradicts = parse(loser.text.strip()) is not on
        except values.BadValue:
            contradicts = True
        if contradicts:
            self.warnings.append(
                f"{winner.source} is {shown(winner.text)} and is used; {loser.source} is "
                f"{shown(loser.text)} and is ignored"
            )

    def _is_variable(self, name: str) -> bool:
        return name in self.given and self.given[name].is_variable

    def ports(self, name: str) -> tuple[int, ...]:
        """A flag's list of ports, which may stand in a file."""
        return self.many(name, partial(self._listed_port, name), file=True)

    def _listed_port(self, name: str, item: str) -> int:
        port = values.listed_port(item)
        if port == 0:
            self.warnings.append(f"{self.source(name)}: port 0 matches no packet")
        elif item.startswith("0"):
            self.warnings.append(f"{self.source(name)}: {item} is read as port {port}")
        return port

    def many(self, name: str, parse: Callable[[str], T], file: bool = False) -> tuple[T, ...]:
        """A flag's list; with `file`, it may stand in a file that `@path` names."""
        given = self.given.get(name)
        if given is None:
            return ()
        text = given.text.strip()
        if file and text.startswith("@"):
            return self._list(given.source, self._file_items(given.source, text), parse)
        return self._list(given.source, values.items(text), parse)

    def is_everything(self, name: str) -> bool:
        """Whether a flag is `*`, alone."""
        return name in self.given and values.items(self.given[name].text) == ["*"]

    def _file_items(self, source: str, text: str) -> list[str]:
        try:
            return values.file_items(self.machine.read_text(text[1:]))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.mistakes.append(Mistake(source, text, f"expected a readable file: {reason}"))
            return []

    def _list(self, source: str, items: list[str], parse: Callable[[str], T]) -> tuple[T, ...]:
        mistakes, warnings = len(self.mistakes), len(self.warnings)
        parsed: list[T] = []
        for item in items:
            value = self._parsed(source, item, parse, None)
            if value is not None:
                parsed.append(value)
        more = "and {} more items like these"
        if left_out := _cut(self.mistakes, mistakes):
            self.mistakes.append(Mistake(source, None, more.format(left_out)))
        if left_out := _cut(self.warnings, warnings):
            self.warnings.append(f"{source}: {more.format(left_out)}")
        return tuple(parsed)

    def _parsed(
        self,
        source: str,
        item: str,
        parse: Callable[[str], T],
        default: T,
        lenient: bool = False,
    ) -> T:
        try:
            return parse(item)
        except values.BadValue as bad:
            if lenient:
                got = f"got {shown(bad.item)}, expected {bad.expected}"
                self.warnings.append(f"{source}: {got}; it is ignored")
                return default
            hint = bad.hint
            if is_flag(item, self.extra) and source.startswith("-"):
                hint = f'{source} took the next flag as its value; write {source} "" for none'
            self.mistakes.append(Mistake(source, bad.item, f"expected {bad.expected}", hint))
            return default

    def networks(self, name: str) -> tuple[Network, ...]:
        """A flag's list of CIDRs, which may stand in a file."""
        return tuple(network for network, _ in self.cidrs(name))

    def cidrs(self, name: str) -> tuple[tuple[Network, Address], ...]:
        """The same, each with the address as it was written."""
        return self.many(name, self._cidr, file=True)

    def _cidr(self, item: str) -> tuple[Network, Address]:
        """A network, and the address as it was written."""
        network, address = values.cidr(item)
        if self.old_rules and network.version == 6:
            raise values.BadValue(item, "an IPv4 CIDR; the rule set 1.0 does not support IPv6")
        return network, address

    def user(self, item: str) -> int:
        """A uid, by number or name."""
        return values.owner(item, "user", self.machine.user_id)

    def group(self, item: str) -> int:
        """A gid, by number or name."""
        return values.owner(item, "group", self.machine.group_id)


def _cut(lines: list[T], begin: int) -> int:
    """Delete the lines since `begin` that are too many; returns how many these are."""
    end = begin + MAX_LINES_PER_LIST
    more = len(lines) - end
    del lines[end:]
    return max(more, 0)
