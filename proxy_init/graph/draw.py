"""Turns rulesets into drawings: where each chain goes, and the fate of packets in each row."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import assert_never

from ..rules.matches import Comment, Destination, Protocol
from ..rules.model import BUILT_IN, Chain, Rule, Ruleset, Table
from ..rules.targets import (
    ConntrackZone,
    Goto,
    Jump,
    Redirect,
    Reject,
    RestoreMark,
    SaveMark,
    SetMark,
    Target,
    Tproxy,
    UnknownTarget,
    Verdict,
)
from ..rules.wording import matches_in_words, printable, target_in_words
from .alike import alike
from .drawing import ROUTE, Box, Drawing, Fate, Frame, Place, Row

MAX_SIMILAR = 12
"""Up to so many similar rows are all drawn; of more, only DRAWN_OF_MORE."""
DRAWN_OF_MORE = 10
DRAWN_BRANCHES = 1
"""Of the rows with a goto to a chain of a tree of CIDRs, which has as many rows again."""
DNS_CHAIN = "ISTIO_OUTPUT_DNS"
_CAPTIONS = {
    "PREROUTING": "inbound packets, and local packets returning over lo",
    "INPUT": "inbound packets, before local delivery",
    "OUTPUT": "packets that the pod sends",
}


def drawings(rulesets: Sequence[Ruleset]) -> tuple[Drawing, ...]:
    """A drawing of each family that has rules; a single one if both have the same rules."""
    used = [ruleset for ruleset in rulesets if ruleset.tables]
    if len(used) == 2 and alike(*used):
        return (_draw(used[0], used[1]),)
    return tuple(map(_draw, used))


def _draw(ruleset: Ruleset, twin: Ruleset | None = None) -> Drawing:
    chains = {
        (table.name, chain.name): chain for table in _in_order(ruleset) for chain in table.chains
    }
    hooks = [
        hook for hook in _CAPTIONS if any((table.name, hook) in chains for table in ruleset.tables)
    ]
    leading = {hook: _reached(hook, chains) for hook in hooks}
    boxes = {
        (table, name): _box(ruleset, ruleset.table(table), chain)
        for (table, name), chain in chains.items()
    }
    shown = _shown(boxes)

    def led_to_by(key: tuple[str, str]) -> list[str]:
        return [hook for hook in hooks if key in leading[hook]]

    own = [
        key
        for key in boxes
        if key[1] not in BUILT_IN[key[0]] and (key in shown or not led_to_by(key))
    ]
    return Drawing(
        title=" and ".join(each.family.title for each in (ruleset, twin) if each),
        notes=tuple(_notes(ruleset, twin)),
        frames=tuple(
            Frame(
                hook,
                _CAPTIONS[hook],
                tuple(box for (_, name), box in boxes.items() if name == hook),
                tuple(boxes[key] for key in own if led_to_by(key) == [hook]),
            )
            for hook in hooks
        ),
        shared=tuple(boxes[key] for key in own if len(led_to_by(key)) > 1),
        unused=tuple(boxes[key] for key in own if not led_to_by(key)),
        places=tuple(_places(ruleset)),
    )


def _in_order(ruleset: Ruleset) -> list[Table]:
    return [ruleset.table(name) for name in BUILT_IN]


def _reached(hook: str, chains: Mapping[tuple[str, str], Chain]) -> set[tuple[str, str]]:
    """The chains that packets may reach from a hook, in any table."""
    found: set[tuple[str, str]] = set()
    left = [key for key in chains if key[1] == hook]
    while left:
        table, name = left.pop()
        for rule in chains[table, name].rules:
            key = (table, rule.target.name)
            if isinstance(rule.target, Jump | Goto) and key in chains and key not in found:
                found.add(key)
                left.append(key)
    return found


def _shown(boxes: Mapping[tuple[str, str], Box]) -> set[tuple[str, str]]:
    """The chains that drawn rows lead to; rows that stand for several others lead to none."""
    places = {box.key: place for place, box in boxes.items()}
    found: set[tuple[str, str]] = set()
    left = [(table, name) for table, name in boxes if name in BUILT_IN[table]]
    while left:
        for row in boxes[left.pop()].rows:
            place = places.get(row.to or "")
            if place and place not in found:
                found.add(place)
                left.append(place)
    return found


def _box(ruleset: Ruleset, table: Table, chain: Chain) -> Box:
    kept_here = False
    rows: list[Row] = []
    numbered = enumerate(chain.rules, start=1)
    for _, group in groupby(numbered, key=lambda item: _kind(item[1])):
        rules = list(group)
        drawn = rules[: _number_drawn(rules[0][1], len(rules))]
        for number, rule in drawn:
            kept_here = kept_here or (not rule.matches and _is_kept_here(ruleset, rule.target))
            fate = Fate.CAPTURED if kept_here else _fate(ruleset, table, rule.target)
            rows.append(_row(ruleset, table, chain, number, rule, fate))
        for number, _ in rules[len(drawn) :][:1]:
            more = f"and {len(rules) - len(drawn):,} more like these"
            tree = isinstance(drawn[-1][1].target, Goto)
            outcome = "each continues in its own chain" if tree else rows[-1].outcome
            rows.append(Row(number, more, outcome, rows[-1].fate, ""))
    return Box(_key(table.name, chain.name), table.name, chain.name, tuple(rows))


def _kind(rule: Rule) -> tuple[object, ...]:
    target = Goto if isinstance(rule.target, Goto) else rule.target
    return target, tuple(map(type, rule.matches))


def _number_drawn(rule: Rule, similar: int) -> int:
    """How many rows are drawn of so many similar rules, of which `rule` is one."""
    if isinstance(rule.target, Goto):
        return DRAWN_BRANCHES
    return similar if similar <= MAX_SIMILAR else DRAWN_OF_MORE


def _row(ruleset: Ruleset, table: Table, chain: Chain, number: int, rule: Rule, fate: Fate) -> Row:
    to: str | None = None
    match rule.target:
        case Jump(name) | Goto(name):
            to = _key(table.name, name)
        case Redirect(port) | Tproxy(port):
            to = _place_key(chain, port)
        case SetMark() | RestoreMark() if _is_kept_here(ruleset, rule.target):
            to = ROUTE
        case _:
            pass
    return Row(
        number,
        matches_in_words(rule),
        target_in_words(rule.target),
        fate,
        printable(rule.why),
        to,
    )


def _fate(ruleset: Ruleset, table: Table, target: Target) -> Fate:
    match target:
        case Redirect() | Tproxy():
            return Fate.CAPTURED
        case Verdict("DROP") | Reject():
            return Fate.REFUSED
        case Verdict():
            return Fate.PASSES
        case Jump(name) | Goto(name):
            chain = table.chain(name)
            fates = {row.fate for row in _box(ruleset, table, chain).rows} if chain else set()
            takes_all = chain is not None and any(map(_takes_all_tcp, chain.rules))
            return fates.pop() if takes_all and len(fates) == 1 else Fate.GOES_ON
        case SetMark() | RestoreMark():
            return Fate.CAPTURED if _is_kept_here(ruleset, target) else Fate.GOES_ON
        case SaveMark() | ConntrackZone() | UnknownTarget():
            return Fate.GOES_ON
        case _:
            assert_never(target)


def _takes_all_tcp(rule: Rule) -> bool:
    """Whether a rule matches all TCP packets, except perhaps some to the loopback address."""
    return all(
        match == Protocol("tcp")
        or isinstance(match, Comment)
        or (isinstance(match, Destination) and match.negated)
        for match in rule.matches
    )


def _is_kept_here(ruleset: Ruleset, target: Target) -> bool:
    """Whether `target` sets the mark with which the policy route delivers packets locally."""
    route = ruleset.routing.policy_route
    return route is not None and target in (SetMark(route.mark), RestoreMark())


def _places(ruleset: Ruleset) -> Iterator[Place]:
    labels = {
        _place_key(chain, target.port): f"{_listener(chain)} on port {target.port}"
        for table in _in_order(ruleset)
        for chain in table.chains
        for target in (rule.target for rule in chain.rules)
        if isinstance(target, Redirect | Tproxy)
    }
    yield from (Place(key, label, Fate.CAPTURED) for key, label in labels.items())
    route = ruleset.routing.policy_route
    if route:
        yield Place(ROUTE, f"routing table {route.table} keeps it local", Fate.CAPTURED)


def _place_key(chain: Chain, port: int) -> str:
    return f"{'agent' if chain.name == DNS_CHAIN else 'proxy'}_{port}"


def _listener(chain: Chain) -> str:
    return "the DNS agent" if chain.name == DNS_CHAIN else "the proxy"


def _key(table: str, chain: str) -> str:
    return f"{table}_{chain}"


def _notes(ruleset: Ruleset, twin: Ruleset | None) -> Iterator[str]:
    if twin:
        yield (
            f"{twin.family.title} has the same rules, with its own loopback addresses: ::1 and ::6"
        )
    for each in (ruleset, twin):
        if each and each.routing.passthrough_address:
            yield f"{each.family.title} also has the address {each.family.passthrough} on lo"
