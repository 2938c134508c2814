"""Reading what the kernel's rules have counted; writes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from ..analysis.counters import Counted, Standing, counted
from ..frozen import replace
from ..rules.model import BUILT_IN, Family, Ruleset, Table
from .backend import Backend, Task
from .diagnose import explained
from .legacy_steps import present_tables
from .nftables import tables as nf_tables
from .nftables.snapshot import left_view, our_view
from .system.refusal import KernelRefused
from .system.workers import Worker, side_by_side


class Readings:
    """Children that read a backend's tables, whenever asked."""

    def __init__(self, workers: Sequence[Worker[tuple[Counted, ...]]]) -> None:
        self._workers = workers

    def now(self) -> tuple[Counted, ...]:
        """Our rules with their counts, and those missing. Raises ApplyFailed or NodeCannot."""
        return tuple(line for lines in side_by_side(self._workers) for line in lines)


@contextmanager
def readings(tasks: Sequence[Task], left: bool = False) -> Iterator[Readings]:
    """Readings of the kernel beside what the tasks want, for as long as the block lasts.

    With `left`, what they want of nf_tables is wanted in the tables that iptables-nft makes.
    """
    with ExitStack() as stack:
        yield Readings(
            [stack.enter_context(Worker(task.title, partial(_read, task, left))) for task in tasks]
        )


def _read(task: Task, left: bool) -> Iterator[tuple[Counted, ...]]:
    nft = task.backend is Backend.NFT
    try:
        # Each table is read as a whole, so there is no need for the lock.
        yield from _nft_lines(task.rulesets, left) if nft else _legacy_lines(task.rulesets)
    except KernelRefused as refused:
        raise explained(refused, task) from refused


def _legacy_lines(rulesets: Sequence[Ruleset]) -> Iterator[tuple[Counted, ...]]:
    from .legacy.libiptc import Tables

    (ruleset,) = rulesets
    tables = Tables(ruleset.family)
    while True:
        yield tuple(
            line
            for table in present_tables(tables, ruleset, write=False)
            for line in counted(
                ruleset.family, ruleset.table(table.name), table, tables.counts(table.name)
            )
        )


def _nft_lines(rulesets: Sequence[Ruleset], in_left: bool) -> Iterator[tuple[Counted, ...]]:
    while True:
        snapshot = nf_tables.read()
        lines: list[Counted] = []
        for name in BUILT_IN:
            by_family = []
            for ruleset in rulesets:
                view, none = our_view(snapshot, name, ruleset.family), Table(name, ())
                wanted, wanted_left = ruleset.table(name), none
                if in_left:
                    wanted, wanted_left = wanted_left, wanted
                own = counted(ruleset.family, wanted, view.table, view.counts, all_ours=True)
                by_family.append([_placed(line, view.places) for line in own])
                left = left_view(snapshot, name, ruleset.family)
                if left:
                    lines += counted(ruleset.family, wanted_left, left.table, left.counts)
            lines += _shared(*by_family) if len(by_family) == len(Family) else by_family[0]
        yield tuple(lines)


def _placed(line: Counted, places: Mapping[str, Sequence[int]]) -> Counted:
    """A line with the rule's number in the kernel, where rules of the other family are between."""
    if line.number is None:
        return line
    return replace(line, number=places[line.chain][line.number - 1] + 1)


def _shared(ours: Sequence[Counted], theirs: Sequence[Counted]) -> Iterator[Counted]:
    """Both families' lines; a rule that both have counts for both, and comes once."""

    def places(lines: Sequence[Counted]) -> set[tuple[str, int | None, Standing]]:
        return {(line.chain, line.number, line.standing) for line in lines if line.number}

    both = places(ours) & places(theirs)
    for line in ours:
        is_shared = (line.chain, line.number, line.standing) in both
        yield replace(line, family=None) if is_shared else line
    yield from (line for line in theirs if (line.chain, line.number, line.standing) not in both)
