"""Turns rules into pictures: where each chain goes, and the fate of packets in each row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from re import fullmatch, sub
from typing import assert_never

from ..analysis.counters import Standing
from ..analysis.kernel_rules import Line
from ..frozen import replace
from ..rules.matches import Comment, Destination, Protocol
from ..rules.model import PREFIX, Rule, Ruleset
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
from .drawing import ROUTE, Box, Drawing, Emphasis, Fate, Frame, Picture, Place, Row
from .met import Met, with_way
from .subject import Subject, of_ruleset

MAX_SIMILAR = 12
"""Up to so many similar rows are all drawn; of more, only DRAWN_OF_MORE."""
DRAWN_OF_MORE = 10
DRAWN_BRANCHES = 1
"""Of the rows with a goto to a chain of a tree of CIDRs, which has as many rows again."""
DNS_CHAIN = f"{PREFIX}OUTPUT_DNS"
_CAPTIONS = {
    "PREROUTING": "inbound packets, and local packets returning over lo",
    "INPUT": "inbound packets, before local delivery",
    "FORWARD": "packets that pass through this namespace",
    "OUTPUT": "packets that the pod sends",
    "POSTROUTING": "packets before they leave",
}

_Key = tuple[str, str]
"""The title of a table, and a chain in it."""


def wanted_picture(rulesets: Sequence[Ruleset]) -> Picture:
    """The rules that flags ask for; one drawing if both families have the same."""
    used = [ruleset for ruleset in rulesets if ruleset.tables]
    title = "the rules for these flags" if used else "no rules"
    if len(used) == 2 and alike(*used):
        one, other = used
        title_of_both = " and ".join(each.family.title for each in used)
        notes = (
            f"{other.family.title} has the same rules, with its own loopback addresses: ::1 "
            "and ::6",
            *(note for each in used for note in of_ruleset(each).notes),
        )
        drawing = replace(drawing_of(of_ruleset(one)), title=title_of_both, notes=notes)
        return Picture(title, (drawing,))
    return Picture(title, tuple(drawing_of(of_ruleset(each)) for each in used))


def drawing_of(subject: Subject, met: Met | None = None) -> Drawing:
    """The rules of one family; and a packet's way through them, if it has `met` any."""
    painter = _Painter(subject, _keys(subject), met)
    boxes = {key: painter.box(key) for key in painter.keys}
    hooks = [hook for hook in _CAPTIONS if any(chain == hook for _, chain in boxes)]
    leading = {hook: _reached(subject, hook) for hook in hooks}
    shown = _shown(boxes)

    def led_to_by(key: _Key) -> list[str]:
        return [hook for hook in hooks if key in leading[hook]]

    own = [key for key in boxes if key[1] not in _CAPTIONS and (key in shown or not led_to_by(key))]
    drawing = Drawing(
        title=subject.family.title,
        notes=subject.notes,
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
        places=tuple(painter.places()),
    )
    return with_way(drawing, met, painter.keys) if met else drawing


def _keys(subject: Subject) -> dict[_Key, str]:
    """A key for each chain, of letters, digits and underscores: names in the kernel may be any."""
    keys: dict[_Key, str] = {}
    for title, chains in subject.tables.items():
        for chain in chains:
            key = sub("[^A-Za-z0-9_]", "_", f"{title}_{chain}")
            # Row 1 of the chain A has the key A_r1.
            taken = key in keys.values() or fullmatch(".*_r[0-9]+", key)
            keys[title, chain] = f"{key}_{len(keys)}_" if taken else key
    return keys


def _reached(subject: Subject, hook: str) -> set[_Key]:
    """The chains that packets may reach from a hook, in any table."""
    found: set[_Key] = set()
    left = [(title, hook) for title in subject.tables]
    while left:
        title, name = left.pop()
        for line in subject.tables[title].get(name, ()):
            target = line.rule.target
            key = (title, target.name)
            if (
                isinstance(target, Jump | Goto)
                and target.name in subject.tables[title]
                and key not in found
            ):
                found.add(key)
                left.append(key)
    return found


def _shown(boxes: Mapping[_Key, Box]) -> set[_Key]:
    """The chains that drawn rows lead to; rows that stand for several others lead to none."""
    places = {box.key: place for place, box in boxes.items()}
    found: set[_Key] = set()
    left = [key for key in boxes if key[1] in _CAPTIONS]
    while left:
        for row in boxes[left.pop()].rows:
            place = places.get(row.to or "")
            if place and place not in found:
                found.add(place)
                left.append(place)
    return found


@dataclass(frozen=True)
class _Painter:
    """What the rows of one drawing are made from."""

    subject: Subject
    keys: Mapping[_Key, str]
    met: Met | None

    def box(self, key: _Key) -> Box:
        """A chain with its rows."""
        kept_here = False
        rows: list[Row] = []
        numbered = enumerate(self._lines(key), start=1)
        for _, group in groupby(numbered, key=partial(self._kind, key)):
            lines = list(group)
            drawn = lines[: _number_drawn(lines[0][1].rule, len(lines))]
            for number, line in drawn:
                kept_here = kept_here or (
                    not line.rule.matches and self._is_kept_here(line.rule.target)
                )
                fate = Fate.CAPTURED if kept_here else self._fate(key[0], line.rule.target)
                rows.append(self._row(key, number, line, fate))
            left_out = lines[len(drawn) :]
            if left_out:
                rows.append(self._more(key, left_out, rows[-1], drawn[-1][1].rule))
        return Box(self.keys[key], printable(key[0]), printable(key[1]), tuple(rows))

    def places(self) -> Iterator[Place]:
        """Where arrows lead that don't lead to chains."""
        labels = {
            _place_key(chain, target.port): f"{_listener(chain)} on port {target.port}".strip()
            for title, chain in self.keys
            for target in (line.rule.target for line in self._lines((title, chain)))
            if isinstance(target, Redirect | Tproxy)
        }
        yield from (Place(key, label, Fate.CAPTURED) for key, label in labels.items())
        route = self.subject.policy_route
        if route:
            yield Place(ROUTE, f"routing table {route.table} keeps it local", Fate.CAPTURED)

    def _lines(self, key: _Key) -> Sequence[Line]:
        return self.subject.tables[key[0]][key[1]]

    def _kind(self, key: _Key, numbered: tuple[int, Line]) -> tuple[object, ...]:
        """Equal for similar rules; one that stands out is similar to none."""
        number, line = numbered
        target = Goto if isinstance(line.rule.target, Goto) else line.rule.target
        alone = number if self.met and self.met.steps(key, line.number) else None
        return target, tuple(map(type, line.rule.matches)), line.standing, alone

    def _row(self, key: _Key, number: int, line: Line, fate: Fate) -> Row:
        target = line.rule.target
        to: str | None = None
        match target:
            case Jump(name) | Goto(name):
                to = self.keys.get((key[0], name))
            case Redirect(port) | Tproxy(port):
                to = _place_key(key[1], port)
            case SetMark() | RestoreMark() if self._is_kept_here(target):
                to = ROUTE
            case _:
                pass
        return Row(
            number,
            line.number,
            matches_in_words(line.rule),
            target_in_words(target),
            fate,
            printable(line.rule.why),
            to,
            tuple(self._remarks(key, [line])),
            self._emphasis(key, [line]),
        )

    def _more(
        self, key: _Key, left_out: Sequence[tuple[int, Line]], above: Row, similar: Rule
    ) -> Row:
        """The row that stands for the similar rules below `above`."""
        lines = [line for _, line in left_out]
        tree = isinstance(similar.target, Goto)
        return Row(
            left_out[0][0],
            lines[0].number,
            f"and {len(lines):,} more like these",
            "each continues in its own chain" if tree else above.outcome,
            above.fate,
            "",
            remarks=tuple(self._remarks(key, lines)),
            emphasis=self._emphasis(key, lines),
        )

    def _remarks(self, key: _Key, lines: Sequence[Line]) -> Iterator[str]:
        """What is known of some lines besides what the rules say."""
        standing = lines[0].standing
        if standing is Standing.MISSING:
            yield "missing"
            return
        if standing is Standing.NOT_WANTED:
            yield "not wanted"
        if self.subject.compared and standing is None and lines[0].number:
            yield "another program's"
        if self.met:
            yield from self.met.remarks(key, [line.number for line in lines])
        if self.subject.compared and lines[0].number:
            packets = _packets(lines)
            if packets is None:
                yield "not counted"
            else:
                many = f"{packets:,} packet{'' if packets == 1 else 's'}"
                yield many if packets or self.met else Emphasis.NEVER_MATCHED.value

    def _emphasis(self, key: _Key, lines: Sequence[Line]) -> Emphasis:
        standing = lines[0].standing
        if standing is Standing.MISSING:
            return Emphasis.MISSING
        if standing is Standing.NOT_WANTED:
            return Emphasis.NOT_WANTED
        if self.met:
            return self.met.emphasis(key, [line.number for line in lines])
        return Emphasis.NEVER_MATCHED if _packets(lines) == 0 else Emphasis.NONE

    def _fate(self, title: str, target: Target) -> Fate:
        match target:
            case Redirect() | Tproxy():
                return Fate.CAPTURED
            case Verdict("DROP") | Reject():
                return Fate.REFUSED
            case Verdict():
                return Fate.PASSES
            case Jump(name) | Goto(name):
                key = (title, name)
                if key not in self.keys or not any(map(_takes_all_tcp, self._lines(key))):
                    return Fate.GOES_ON
                fates = {row.fate for row in self.box(key).rows}
                return fates.pop() if len(fates) == 1 else Fate.GOES_ON
            case SetMark() | RestoreMark():
                return Fate.CAPTURED if self._is_kept_here(target) else Fate.GOES_ON
            case SaveMark() | ConntrackZone() | UnknownTarget():
                return Fate.GOES_ON
            case _:
                assert_never(target)

    def _is_kept_here(self, target: Target) -> bool:
        """Whether `target` sets the mark with which the policy route delivers packets locally."""
        route = self.subject.policy_route
        return route is not None and target in (SetMark(route.mark), RestoreMark())


def _number_drawn(rule: Rule, similar: int) -> int:
    """How many rows are drawn of so many similar rules, of which `rule` is one."""
    if isinstance(rule.target, Goto):
        return DRAWN_BRANCHES
    return similar if similar <= MAX_SIMILAR else DRAWN_OF_MORE


def _packets(lines: Sequence[Line]) -> int | None:
    """How many packets the rules have matched; None if one of them does not count."""
    counts = [line.count for line in lines]
    return None if None in counts else sum(count.packets for count in counts if count)


def _takes_all_tcp(line: Line) -> bool:
    """Whether a rule matches all TCP packets, except perhaps some to the loopback address."""
    return line.standing is not Standing.MISSING and all(
        match == Protocol("tcp")
        or isinstance(match, Comment)
        or (isinstance(match, Destination) and match.negated)
        for match in line.rule.matches
    )


def _place_key(chain: str, port: int) -> str:
    return f"{'agent' if chain == DNS_CHAIN else 'proxy'}_{port}"


def _listener(chain: str) -> str:
    return "the DNS agent" if chain == DNS_CHAIN else "the proxy"
