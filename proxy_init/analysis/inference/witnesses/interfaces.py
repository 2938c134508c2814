"""What rules say about the interfaces of -c and -k."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from ....rules.matches import InInterface, OutInterface
from ....rules.model import Rule
from ....rules.targets import RETURN
from .reading import TO_REDIRECT, Choice, Reading, arriving_on, lists, periods, values, without


def interfaces(reading: Reading) -> Iterator[Sequence[Choice]]:
    """-c and -k, which depend on each other."""
    if reading.is_old:
        return
    excluded: list[Sequence[str]] = []
    virtual: list[Sequence[str]] = []
    for rules in reading.rules("nat", "OUTPUT"):
        excluded.append(values(rules, _left_alone_leaving))
    if reading.is_transparent():
        excluded += (values(r, _left_alone_leaving) for r in reading.rules("mangle", "OUTPUT"))
        excluded += (values(r, _left_alone_arriving) for r in reading.rules("mangle", "PREROUTING"))
    leaving = lists(excluded)
    for family in reading.families:
        rules = reading.present.rules(family, "nat", "PREROUTING")
        arriving = values(rules, _left_alone_arriving)
        by_network: dict[object, list[str]] = {}
        for rule in rules:
            if rule.target == TO_REDIRECT:
                other = tuple(m for m in rule.matches if not isinstance(m, InInterface))
                by_network.setdefault(other, []).append(arriving_on(rule))
        for names in by_network.values():
            virtual += periods(tuple(reversed(names)))
        # Those of -k come first, the last one at the top, then those of -c.
        if not by_network:
            top = values(takewhile(_left_alone_arriving, rules), _left_alone_arriving)
            virtual.append(top[: max(0, len(arriving) - len(leaving[0]))][::-1])
            virtual.append(without(arriving, leaving[0])[::-1])
        excluded += (arriving[len(each) :] for each in virtual or ((),))
    yield [
        {"excluded_interfaces": each, "virtual_interfaces": others}
        for others in dict.fromkeys((*lists(virtual), ()))
        for each in dict.fromkeys((*lists(excluded), ()))
    ]


def _left_alone_arriving(rule: Rule) -> str | None:
    match rule.matches, rule.target:
        case (InInterface(name, False),), target if target == RETURN:
            return name
        case (), target if target == RETURN:
            return "+"
    return None


def _left_alone_leaving(rule: Rule) -> str | None:
    match rule.matches, rule.target:
        case (OutInterface(name, False),), target if target == RETURN:
            return name
        case (), target if target == RETURN:
            return "+"
    return None
