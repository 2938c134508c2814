"""The rules that are there, and small readers that the witnesses of all settings share."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, TypeAlias, TypeVar

from ....rules.matches import DestinationPort, InInterface, Protocol
from ....rules.model import Family, Rule
from ....rules.networks import Address, Network
from ....rules.targets import RETURN, Goto, Jump, RestoreMark, SaveMark, SetMark
from ..difference import Present

T = TypeVar("T", bound=Hashable)
Choice: TypeAlias = Mapping[str, Any]
"""Values of some settings that go together, by name. The settings are those of Config; lists of
networks are one for each family."""

TO_REDIRECT, TO_IN_REDIRECT = Jump("ISTIO_REDIRECT"), Jump("ISTIO_IN_REDIRECT")
TO_DIVERT = Jump("ISTIO_DIVERT")
"""1.0 has such a rule twice for each port of a list."""
EVERYWHERE = {
    Family.V4: Network(Address(bytes(4)), 0),
    Family.V6: Network(Address(bytes(16)), 0),
}


def per_family(name: str, family: Family) -> str:
    """The name of a setting of which each family has its own."""
    return f"{name}_{family.value}"


def ranked(values: Iterable[T]) -> list[T]:
    """The different values, the most frequent first; of equally frequent ones, the first."""
    return [value for value, _ in Counter(values).most_common()]


def lists(some: Iterable[Sequence[T]]) -> list[tuple[T, ...]]:
    """The different lists, the most frequent first; and one that has the items of all."""
    found = ranked(map(tuple, some))
    united: tuple[T, ...] = ()
    for each in found:
        united = _united(united, each)
    return [*dict.fromkeys([*found, united])] or [()]


def _united(these: tuple[T, ...], those: tuple[T, ...]) -> tuple[T, ...]:
    """The shortest list that holds the items of both in their order, or nearly."""
    matcher = SequenceMatcher(None, these, those, autojunk=False)
    united: list[T] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        united += these[i:j]
        united += those[k:m] if tag != "equal" else ()
    return tuple(united)


def periods(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """The lists that give these items if they are repeated, the shortest first."""
    for length in range(1, len(items) + 1):
        if len(items) % length == 0 and items[:length] * (len(items) // length) == items:
            yield items[:length]


def values(rules: Iterable[Rule], value_of: Callable[[Rule], T | None]) -> tuple[T, ...]:
    """What `value_of` finds in rules, without None."""
    return tuple(value for value in map(value_of, rules) if value is not None)


def returned_port(protocol: str) -> Callable[[Rule], int | None]:
    """The port of rules of a protocol that return."""

    def port(rule: Rule) -> int | None:
        match rule.matches:
            case (Protocol(name, False), DestinationPort(_, port, False)) if name == protocol:
                return port if rule.target == RETURN else None
        return None

    return port


def led_port(target: Jump) -> Callable[[Rule], int | None]:
    """The port of TCP rules that jump to a chain, with a match behind it or not."""

    def port(rule: Rule) -> int | None:
        match rule.matches:
            case (Protocol("tcp", False), DestinationPort(_, port, False), *_):
                return port if rule.target == target else None
        return None

    return port


def without(items: tuple[T, ...], some: Sequence[T]) -> tuple[T, ...]:
    """`items` without the first of each of `some`."""
    left = [*items]
    for each in some:
        if each in left:
            left.remove(each)
    return tuple(left)


def arriving_on(rule: Rule) -> str:
    """The interface on which what a rule matches arrives; + if it is any."""
    return next((m.name for m in rule.matches if isinstance(m, InInterface)), "+")


class Reading:
    """The rules that are present, as the witnesses of settings read them."""

    def __init__(self, present: Present, is_old: bool) -> None:
        self.present = present
        self.is_old = is_old
        self.families = tuple(present.held.tables)
        self.outputs = {family: tuple(self._flat(family)) for family in self.families}

    def rules(self, table: str, chain: str) -> Iterator[Sequence[Rule]]:
        """The chain of each family that has it."""
        for family in self.families:
            rules = self.present.rules(family, table, chain)
            if rules:
                yield rules

    def each(self, table: str, chain: str) -> Iterator[Rule]:
        """The rules of a chain in all families."""
        for rules in self.rules(table, chain):
            yield from rules

    def output(self) -> Iterator[Sequence[Rule]]:
        """ISTIO_OUTPUT of each family that has it, as one list."""
        return (rules for rules in self.outputs.values() if rules)

    def _flat(self, family: Family) -> Iterator[Rule]:
        """ISTIO_OUTPUT with the chains in which it continues, as one list."""
        left = [
            name
            for name in self.present.chain_names(family, "nat")
            if name.startswith(("ISTIO_EXCLUDED_", "ISTIO_CAPTURED_"))
            or name in ("ISTIO_NOT_EXCLUDED", "ISTIO_OWNER_GROUPS")
        ]

        def chain(name: str) -> Iterator[Rule]:
            in_tree = name.startswith("ISTIO_EXCLUDED_")
            for rule in self.present.rules(family, "nat", name):
                match rule.target:
                    case Goto("ISTIO_NOT_EXCLUDED") if in_tree:
                        pass
                    case Goto("ISTIO_OWNER_GROUPS"):
                        yield rule
                        if rule is last_of_groups:
                            left.remove("ISTIO_OWNER_GROUPS")
                            yield from chain("ISTIO_OWNER_GROUPS")
                    case Goto(below) if below in left:
                        left.remove(below)
                        yield from chain(below)
                    case Goto(_):
                        pass
                    case _:
                        yield rule

        groups = [
            rule
            for rule in self.present.rules(family, "nat", "ISTIO_OUTPUT")
            if rule.target == Goto("ISTIO_OWNER_GROUPS")
        ]
        last_of_groups = groups[-1] if groups and "ISTIO_OWNER_GROUPS" in left else None
        yield from chain("ISTIO_OUTPUT")
        while left:  # the rules that led there are gone
            yield from chain(left.pop(0))

    def is_transparent(self) -> bool:
        """Whether most rules are those of mode TPROXY."""
        rules = [rule for name in ("PREROUTING", "OUTPUT") for rule in self.each("mangle", name)]
        targets = {type(rule.target) for rule in rules}
        chains = ("ISTIO_INBOUND", "ISTIO_TPROXY", "ISTIO_DIVERT")
        witnesses = sum(any(self.each("mangle", name)) for name in chains)
        return witnesses + len(targets & {SaveMark, RestoreMark, SetMark}) > 1
