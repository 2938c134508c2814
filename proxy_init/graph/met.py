"""What a packet has met on its way through a drawing."""

from collections.abc import Iterator, Mapping, Sequence

from ..analysis.packet_walk import Outcome, Packet, Visit, Walk, endpoint_text, packet_text
from ..frozen import replace
from ..rules.targets import Redirect, Tproxy
from .drawing import Drawing, Emphasis, Fate, Place, Way

_Chain = tuple[str, str]


class Met:
    """A packet and the rules that it has reached, by chain (its table's title and its name) and
    number."""

    def __init__(self, packet: Packet, walk: Walk) -> None:
        self.packet = packet
        self.walk = walk
        self._visits: dict[tuple[_Chain, int], list[Visit]] = {}
        self._steps: dict[tuple[_Chain, int], list[int]] = {}
        for visit in walk.path:
            place = ((visit.table, visit.chain), visit.number)
            self._visits.setdefault(place, []).append(visit)
        for step, visit in enumerate(_matched(walk), start=1):
            place = ((visit.table, visit.chain), visit.number)
            self._steps.setdefault(place, []).append(step)

    def steps(self, chain: _Chain, number: int | None) -> Sequence[int]:
        """Which of the matched rules, counted from 1, this one is; several if it is met again."""
        return self._steps.get((chain, number or 0), ())

    def remarks(self, chain: _Chain, numbers: Sequence[int | None]) -> Iterator[str]:
        """What the packet met at some rules of a chain: a step, no match, or nothing."""
        visits = [
            visit for number in numbers for visit in self._visits.get((chain, number or 0), ())
        ]
        steps = [str(step) for number in numbers for step in self.steps(chain, number)]
        if steps:
            yield f"step{'s' if len(steps) > 1 else ''} {' and '.join(steps)}"
        elif visits and any(visit.matched is None for visit in visits):
            yield "may match"
        elif visits:
            yield "does not match"
        if any(visit is self.walk.decided_by for visit in visits):
            yield "decides"

    def emphasis(self, chain: _Chain, numbers: Sequence[int | None]) -> Emphasis:
        """How those rules stand out."""
        places = [(chain, number or 0) for number in numbers]
        if any(place in self._steps for place in places):
            return Emphasis.ON_THE_WAY
        reached = any(place in self._visits for place in places)
        return Emphasis.NONE if reached else Emphasis.NOT_REACHED


def _matched(walk: Walk) -> list[Visit]:
    return [visit for visit in walk.path if visit.matched]


def with_way(drawing: Drawing, met: Met, keys: Mapping[_Chain, str]) -> Drawing:
    """The drawing with a packet's way through it; `keys` are those of the boxes."""
    rows = {(box.key, row.number): row for box in drawing.boxes for row in box.rows}
    visits = _matched(met.walk)
    stops = [(keys[visit.table, visit.chain], visit.number) for visit in visits]
    captured_at = [
        rows[stop].to
        for visit, stop in zip(visits, stops, strict=True)
        if isinstance(visit.rule.target, Redirect | Tproxy)
    ]
    places = {place.key: place for place in drawing.places}
    if met.walk.outcome is Outcome.CAPTURED and captured_at:
        end = places.pop(captured_at[0] or "")
    else:
        end = _end(met.packet, met.walk)
    end = replace(end, emphasis=Emphasis.ON_THE_WAY)
    start = Place("packet", packet_text(met.packet), Fate.GOES_ON, Emphasis.ON_THE_WAY)
    return replace(
        drawing,
        places=(start, *places.values(), end),
        way=Way(start, tuple((stop[0], rows[stop].key) for stop in stops), end),
    )


def _end(packet: Packet, walk: Walk) -> Place:
    match walk.outcome:
        case Outcome.CAPTURED:
            return Place("end", f"captured: goes to port {walk.port}", Fate.CAPTURED)
        case Outcome.DROPPED:
            return Place("end", "dropped: does not arrive", Fate.REFUSED)
        case Outcome.DIRECT:
            goes_to = endpoint_text(packet.destination, packet.destination_port)
            return Place("end", f"not captured: goes to {goes_to}", Fate.PASSES)
