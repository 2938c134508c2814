"""Simulates the way of all packets of a journey through rules, as sets.

It does for sets what packet_walk.py does for one packet. A rule splits a set into the packets that
it matches and the rest; sets that were treated alike are joined again. The cost depends on the
rules, not on the packets: a list of n CIDRs takes n log n.

If the result of a rule is not known, the set continues both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar, assert_never

from ..frozen import Frozen
from ..rules.model import BUILT_IN, Rule
from ..rules.targets import (
    NON_TERMINATING,
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
    is_untracking,
    sets_marks,
)
from .number_sets import ANYTHING, Numbers, union
from .packet_sets import (
    CONNECTION_MARK,
    DESTINATION,
    DESTINATION_PORT,
    ESTABLISHED,
    FIELDS,
    INTERFACE,
    INVALID,
    LOOPBACK_ADDRESS,
    MARK,
    NEW,
    RELATED,
    STATE,
    UNTRACKED,
    Box,
    Condition,
    Journey,
    everything,
    merged,
    name_number,
    split,
    with_field,
    without,
)
from .packet_walk import Decision, Direction, Outcome, Place
from .rule_steps import Asking, Compiled, RulePlace, Step

_Key = TypeVar("_Key", bound=Hashable)
_BY_ITSELF: Decision = (Outcome.DIRECT, None, None)
_DROPPED: Decision = (Outcome.DROPPED, None, None)


class Fate(Frozen):
    """A set of packets that are treated alike."""

    box: Box
    decision: Decision | None
    """None: the same as the first packet of their connection."""
    assumed: frozenset[Place]
    """The places of rules whose result is not known and that must match for this."""


class Arrival(NamedTuple):
    """Packets, in their first form, that reach a chain and meet the conditions of a rule there."""

    journey: Journey
    box: Box
    assumed: frozenset[Place]


class _Fixed(NamedTuple):
    """A value that was written into a field."""

    number: int


class _Now(NamedTuple):
    """What has happened to a set so far."""

    holds: tuple[int | _Fixed | None, ...] = tuple(FIELDS)
    """For each field, the field whose first value it has now, or a value; None if not known."""
    nat_done: bool = False
    translated: bool = False
    """By a rule of nat that is not known here; other tables of nat are not asked."""
    captured: tuple[str, int] | None = None
    dropped: bool = False
    assumed: frozenset[Place] = frozenset()

    def is_decided(self, nat: bool) -> bool:
        """Whether no other table of the same kind is asked; `nat` if this kind is nat."""
        return self.dropped or (nat and (self.translated or self.captured is not None))

    def holding(self, field: int, what: int | _Fixed | None) -> _Now:
        """The same after a field was written."""
        return self._replace(holds=(*self.holds[:field], what, *self.holds[field + 1 :]))


class _Part(NamedTuple):
    """Packets, in their first form, that were treated alike so far."""

    box: Box
    now: _Now


class SetWalk:
    """The walk of all packets of a journey through the rules of a pod.

    The `fates` without assumptions are disjoint and cover all packets. Each of the others holds
    packets that are treated differently if certain rules match.
    """

    def __init__(self, compiled: Compiled, journey: Journey) -> None:
        self.journey = journey
        self._compiled = compiled
        self._hook = ""
        self._arrived: dict[tuple[str, str], list[tuple[bool, _Part]]] = {}
        self._matched: set[RulePlace] = set()
        self._met: dict[Step, set[Numbers]] = {}
        self._came_back: dict[Step, set[Numbers]] = {}
        self.fates = tuple(self._walk())

    def matched(self) -> Iterator[RulePlace]:
        """The rules that at least one packet matches."""
        yield from self._matched
        for step, met in self._met.items():
            together, back = union(met), union(self._came_back.get(step, ()))
            for place, own, asked in zip(step.places, step.own, step.asked, strict=True):
                if own.meets(together) or (back and asked.meets(back)):
                    yield place

    def arriving(self, table: str, chain: str, rule: Rule) -> Iterator[Arrival]:
        """The packets that reach a chain and meet the conditions of a rule there."""
        for sends, part in self._arrived.get((table, chain), ()):
            asking = Asking.of(rule, sends)
            inside, _ = _split(part, asking.conditions.items())
            if inside:
                yield Arrival(self.journey, inside.box, inside.now.assumed)

    def _walk(self) -> Iterator[Fate]:
        parts = self._first_parts()
        ended: list[_Part] = []
        hooks = ("OUTPUT", "PREROUTING", "INPUT")
        for hook in hooks if self.journey.direction is Direction.OUT else hooks[1:]:
            self._hook = hook
            for name in BUILT_IN:
                parts = self._tables(name, parts)
                ended += [part for part in parts if part.now.dropped]
                parts = [part for part in parts if not part.now.dropped]
            parts, gone = self._staying(parts)
            ended += gone
        yield from _fates([*ended, *parts])

    def _first_parts(self) -> list[_Part]:
        """The sets at the start. A connection has no mark before its first packet has passed."""
        box = everything(self.journey)

        def of_state(*states: int) -> Box:
            return with_field(box, STATE, Numbers.of(*states))

        return [
            _Part(with_field(of_state(NEW), CONNECTION_MARK, Numbers.of(0)), _Now()),
            _Part(of_state(RELATED), _Now()),
            _Part(of_state(ESTABLISHED, INVALID), _Now(nat_done=True)),
        ]

    def _staying(self, parts: Sequence[_Part]) -> tuple[list[_Part], list[_Part]]:
        """The packets that stay in the pod after this hook, and those that do not."""
        route = self._compiled.pod_network.policy_route
        staying, gone = [], []
        for part in parts:
            if part.now.captured or self.journey.local:
                staying.append(part)
            elif route and part.now.holds[MARK] is not None:
                marked, rest = _split(part, [(MARK, Numbers.of(route.mark))])
                staying += [marked] if marked else []
                gone += rest
            else:
                gone.append(part)
        if self._hook == "OUTPUT":
            loopback = _Fixed(name_number("lo"))
            staying = [_Part(p.box, p.now.holding(INTERFACE, loopback)) for p in staying]
        return staying, gone

    def _tables(self, name: str, parts: list[_Part]) -> list[_Part]:
        tables = self._compiled.pod_network.tables
        titles = [title for title, table in tables.items() if table.name == name]
        nat = name == "nat"
        if not titles or (nat and self._hook == "INPUT"):
            return parts
        done: list[_Part] = []
        if nat:
            # Whatever the result, conntrack does not ask nat again for this connection.
            done = [part for part in parts if part.now.nat_done]
            parts = [
                _Part(part.box, part.now._replace(nat_done=True))
                for part in parts
                if not part.now.nat_done
            ]
        for title in titles:
            after = self._table(title, parts)
            done += [part for part in after if part.now.is_decided(nat)]
            parts = [part for part in after if not part.now.is_decided(nat)]
        return _merged([*done, *parts])

    def _table(self, title: str, parts: Sequence[_Part]) -> list[_Part]:
        accepted, returned = self._chain(title, self._hook, parts)
        chain = self._compiled.chain(title, self._hook)
        if chain and chain.policy == "DROP":
            returned = [_Part(p.box, p.now._replace(dropped=True)) for p in returned]
        return [*accepted, *returned]

    def _chain(
        self, title: str, name: str, parts: Sequence[_Part]
    ) -> tuple[list[_Part], list[_Part]]:
        """The packets that a chain and the chains that it goes to accept, and those that return."""
        ways = _Ways()
        waiting = {name: list(parts)}
        while waiting:
            # A chain that others go to is processed once, after all of them.
            name = min(waiting, key=lambda each: self._compiled.rank(title, each))
            live = _merged(waiting.pop(name))
            sends = self._hook == "OUTPUT"
            arrived = self._arrived.setdefault((title, name), [])
            arrived += [(sends, part) for part in live]
            for step in self._compiled.steps(title, name, sends):
                if not live:
                    break
                live = self._step(title, step, live, ways)
            ways.returned += live
            for target, more in ways.gone_over.items():
                waiting.setdefault(target, []).extend(more)
            ways.gone_over.clear()
        return _merged(ways.accepted), _merged(ways.returned)

    def _step(self, title: str, step: Step, parts: Sequence[_Part], ways: _Ways) -> list[_Part]:
        """Execute a step; returns the packets for the next one."""
        taken: dict[Target, list[_Part]] = {target: [] for target in step.targets}
        left: list[_Part] = []
        for part in parts:
            left += self._take(step, part, taken)
        for target, matched in taken.items():
            if matched:
                passed = self._target(title, target, matched, ways)
                if step.field is not None and passed:
                    back = self._came_back.setdefault(step, set())
                    back.update(_values(part, step.field) for part in passed)
                left += passed
        return _merged(left) if len(left) > len(parts) else left

    def _take(self, step: Step, part: _Part, taken: Mapping[Target, list[_Part]]) -> list[_Part]:
        """Add the packets that match to `taken`, by target; returns the rest."""
        fields = [field for field, _ in step.conditions]
        fields += [] if step.field is None else [step.field]
        if step.unknown or any(part.now.holds[field] is None for field in fields):
            return self._take_perhaps(step, part, taken)
        inside, rest = _split(part, step.conditions)
        if inside is None:
            return rest
        if step.field is None:
            (target,) = step.targets
            self._matched.add(step.places[0])
            taken[target].append(inside)
            return rest
        met = self._met.setdefault(step, set())
        for target, numbers in step.targets.items():
            of_target, _ = _split(inside, [(step.field, numbers)])
            if of_target:
                taken[target].append(of_target)
        matched, unmatched = _split(inside, [(step.field, step.every)])
        if matched:
            met.add(_values(matched, step.field))
        return rest + unmatched

    def _take_perhaps(
        self, step: Step, part: _Part, taken: Mapping[Target, list[_Part]]
    ) -> list[_Part]:
        """The same for rules whose result is not known: the packets continue both ways."""
        left = [part]
        for place, asking in zip(step.places, step.asking, strict=True):
            here = (self._hook, *place)
            after: list[_Part] = []
            for each in left:
                inside, rest = _split(each, asking.conditions.items())
                if inside is None:
                    after.append(each)
                    continue
                if not step.unknown:
                    self._matched.add(place)
                if here not in each.now.assumed:
                    rest = [each]
                    assumed = each.now.assumed | {here}
                    inside = _Part(inside.box, inside.now._replace(assumed=assumed))
                taken[asking.target].append(inside)
                after += rest
            left = after
        return left

    def _target(self, title: str, target: Target, parts: list[_Part], ways: _Ways) -> list[_Part]:
        """Execute a target; returns the packets for the next rule."""
        match target:
            case Verdict("RETURN"):
                ways.returned += parts
            case Verdict("DROP") | Reject():
                ways.accepted += _changed(parts, lambda now: now._replace(dropped=True))
            case Verdict():
                ways.accepted += parts
            case Jump(name):
                accepted, returned = self._chain(title, name, parts)
                ways.accepted += accepted
                return returned
            case Goto(name):
                ways.gone_over.setdefault(name, []).extend(parts)
            case Redirect(port):
                ways.accepted += _changed(parts, lambda now: self._redirected(now, port))
            case Tproxy(port, mark, _):
                ways.accepted += _changed(
                    parts,
                    lambda now: _captured(now.holding(MARK, _Fixed(mark)), "TPROXY", port),
                )
            case SetMark(value):
                return _changed(parts, lambda now: now.holding(MARK, _Fixed(value)))
            case SaveMark():
                return _changed(parts, lambda now: now.holding(CONNECTION_MARK, now.holds[MARK]))
            case RestoreMark():
                return _changed(parts, lambda now: now.holding(MARK, now.holds[CONNECTION_MARK]))
            case ConntrackZone():
                return parts
            case UnknownTarget(name):
                table = self._compiled.pod_network.tables[title].name
                if table == "raw" and is_untracking(target):
                    parts = _changed(parts, _untracked)
                if sets_marks(target):
                    parts = _changed(parts, _marked)
                if name in NON_TERMINATING:
                    return parts
                translates = table == "nat"
                ways.accepted += _changed(parts, lambda now: now._replace(translated=translates))
            case _:
                assert_never(target)
        return []

    def _redirected(self, now: _Now, port: int) -> _Now:
        now = _captured(now, "REDIRECT", port).holding(DESTINATION_PORT, _Fixed(port))
        if self._hook == "OUTPUT":
            own = LOOPBACK_ADDRESS[self.journey.family]
            now = now.holding(DESTINATION, _Fixed(int(own)))
        return now


class _Ways:
    """The packets that left a chain, by the way they left."""

    def __init__(self) -> None:
        self.accepted: list[_Part] = []
        self.returned: list[_Part] = []
        self.gone_over: dict[str, list[_Part]] = {}


def _values(part: _Part, field: int) -> Numbers:
    """What the packets have in a field now."""
    held = part.now.holds[field]
    if held is None:
        return ANYTHING
    return Numbers.of(held.number) if isinstance(held, _Fixed) else part.box[held]


def _marked(now: _Now) -> _Now:
    return now.holding(MARK, None).holding(CONNECTION_MARK, None)


def _untracked(now: _Now) -> _Now:
    return now.holding(STATE, _Fixed(UNTRACKED))._replace(nat_done=True)


def _captured(now: _Now, by: str, port: int) -> _Now:
    return now._replace(captured=now.captured or (by, port))


def _changed(parts: Iterable[_Part], change: Callable[[_Now], _Now]) -> list[_Part]:
    return [_Part(part.box, change(part.now)) for part in parts]


def _split(
    part: _Part, conditions: Iterable[tuple[int, Numbers]]
) -> tuple[_Part | None, list[_Part]]:
    """The packets that meet conditions in their present form, and the rest. A condition on a value
    that is not known counts as met."""
    at_first = []
    for field, numbers in conditions:
        held = part.now.holds[field]
        if held is None:
            continue
        if not isinstance(held, _Fixed):
            at_first.append(Condition(held, numbers))
        elif held.number not in numbers:
            return None, [part]
    inside, rest = split(part.box, at_first)
    if inside is None:
        return None, [part]
    return _Part(inside, part.now), [_Part(box, part.now) for box in rest]


def _merged(parts: Sequence[_Part]) -> list[_Part]:
    """The same packets in fewer parts."""
    if len(parts) < 2:
        return list(parts)
    none: frozenset[Place] = frozenset()
    groups: dict[tuple[_Now, frozenset[Place]], list[Box]] = {}
    for box, now in parts:
        groups.setdefault((now._replace(assumed=none), now.assumed), []).append(box)
    return [
        _Part(box, now._replace(assumed=assumed)) for now, assumed, box in _without_repeats(groups)
    ]


def _fates(parts: Iterable[_Part]) -> Iterator[Fate]:
    groups: dict[tuple[Decision | None, frozenset[Place]], list[Box]] = {}
    for box, now in parts:
        decision: Decision = _BY_ITSELF
        if now.dropped:
            decision = _DROPPED
        elif now.captured:
            decision = (Outcome.CAPTURED, *now.captured)
        established, others = split(box, [Condition(STATE, Numbers.of(ESTABLISHED))])
        if established:
            its_own = decision if now.dropped else None
            groups.setdefault((its_own, now.assumed), []).append(established)
        groups.setdefault((decision, now.assumed), []).extend(others)
    for of_all, assumed, box in _without_repeats(groups):
        yield Fate(box, of_all, assumed)


def _without_repeats(
    groups: Mapping[tuple[_Key, frozenset[Place]], Sequence[Box]],
) -> Iterator[tuple[_Key, frozenset[Place], Box]]:
    """The merged boxes of each group, without packets that get the same with fewer assumptions."""
    for (key, assumed), boxes in groups.items():
        if assumed:
            fewer = [
                box
                for (other, less), others in groups.items()
                if less < assumed and other == key
                for box in others
            ]
            boxes = without(boxes, fewer)
        for box in merged(boxes):
            yield key, assumed, box
