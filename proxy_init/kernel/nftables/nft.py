"""One family's tables in nf_tables, read and written through the programs of iptables.

iptables-nft-save says what is there, and iptables-nft-restore changes it: each table in one
transaction, all or nothing. These programs take no lock. They read what is there when they come to
the word COMMIT; a change of ours counts rules by their place, so just before that word we make sure
that nobody else has changed the table since we read it.

What they print is, in iptables 1.8.9, spelled as iptables-legacy-save spells it. Known differences:
tables stand in the order in which they were made, and ip6tables-nft-restore takes no counts.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from ...errors import NodeCannot
from ...frozen import frozen
from ...rules.counts import Count
from ...rules.iptables_save import rule_text
from ...rules.iptables_save_parser import read_table
from ...rules.model import Family, Rule, Table
from ...rules.reconcile import TableEdit
from ..system.capabilities import hand_down
from ..system.refusal import KernelRefused
from . import nfnetlink

_PLACES = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
"""Where else than on PATH the programs may be: a container's PATH may lack these."""
_INCOMPATIBLE = "is incompatible, use 'nft' tool"
_SECONDS = 60
_MOST_READINGS = 20


def load() -> None:
    """Find the programs. Raises NodeCannot where one is missing."""
    for family in Family:
        for work in ("save", "restore"):
            program(family, work)
    if os.geteuid() != 0:
        hand_down("NET_ADMIN")


@cache
def program(family: Family, work: str) -> str:
    """The path of the program that does some work, `save` or `restore`. Raises NodeCannot."""
    name = f"{'ip' if family is Family.V4 else 'ip6'}tables-nft-{work}"
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PLACES}")
    if path is None:
        raise NodeCannot(f"the program {name} is missing; Debian's package iptables has it")
    return path


@frozen
class _Reading:
    """What a table held at some generation of this namespace's rules."""

    generation: int
    table: Table
    counts: dict[str, tuple[Count, ...]]


class Tables:
    """The tables of one family in this process's network namespace."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._readings: dict[str, _Reading] = {}
        self._staged: dict[str, bytes] = {}

    def instantiated(self) -> tuple[str, ...]:
        """The tables that this namespace has. Raises KernelRefused."""
        try:
            return nfnetlink.table_names(self._family)
        except OSError as error:
            raise KernelRefused("nf_tables", error.errno or errno.EINVAL) from error

    def read(self, name: str) -> Table:
        """All that the table holds now; reading does not make one. Raises KernelRefused."""
        self._readings[name] = self._reading(name)
        return self._readings[name].table

    def counts(self, name: str) -> dict[str, tuple[Count, ...]]:
        """By chain, what each rule of a table had counted when it was last read; a table that was
        never read has no chains."""
        return self._readings[name].counts if name in self._readings else {}

    def stage(self, edit: TableEdit) -> None:
        """Prepare an edit of the table as it was last read; the program's parser must take it.

        Raises KernelRefused.
        """
        lines = "".join(f"{line}\n" for line in _lines(edit))
        self._staged[edit.table] = lines.encode("utf-8", "surrogateescape")
        with self._started("restore", edit.table, "--noflush", "--test") as restore:
            restore.communicate(self._staged[edit.table] + b"COMMIT\n", timeout=_SECONDS)

    def commit(self, name: str) -> None:
        """Write what was staged for a table, all or nothing.

        Raises KernelRefused, with EAGAIN if somebody else changed the table since it was read.
        """
        with self._started("restore", name, "--noflush") as restore:
            assert restore.stdin
            with suppress(BrokenPipeError):  # what it says on stderr tells why
                restore.stdin.write(self._staged[name])
                restore.stdin.flush()
            self._ensure_unchanged(name)
            restore.communicate(b"COMMIT\n", timeout=_SECONDS)

    def _ensure_unchanged(self, name: str) -> None:
        reading = self._readings[name]
        while _generation() != reading.generation:
            # Somebody has changed something, perhaps another table or the other family's.
            again = self._reading(name)
            if again.table != reading.table:
                raise KernelRefused(f"table {name}", errno.EAGAIN)
            reading = again

    def _reading(self, name: str) -> _Reading:
        text, generation = "", -1
        for _ in range(_MOST_READINGS):
            generation = _generation()
            text = self._saved(name)
            # Where something was committed meanwhile, to any table, iptables-nft-save 1.8.9 may
            # print chains twice, the old ones and the new ones.
            if _generation() == generation:
                break
        if _INCOMPATIBLE in text:
            raise KernelRefused(
                f"table {name}",
                errno.EOPNOTSUPP,
                "it holds rules that the program nft has made and iptables can't show; remove "
                "them, or use --backend legacy",
            )
        return _Reading(generation, *read_table(name, text))

    def _saved(self, name: str) -> str:
        with self._started("save", name, "--counters", "--table", name) as save:
            output, _ = save.communicate(timeout=_SECONDS)
        return output.decode("utf-8", "surrogateescape")

    @contextmanager
    def _started(self, work: str, table: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A program that the block gives its input. Raises KernelRefused if it fails; if the block
        does, the program is ended."""
        pipe = subprocess.PIPE
        with os.fdopen(os.memfd_create("said"), "w+b") as said:
            try:
                with subprocess.Popen(
                    [program(self._family, work), *options],
                    stdin=pipe,
                    stdout=pipe,
                    stderr=said,
                    close_fds=False,  # it is to have the lock; nothing else is inherited
                ) as running:
                    try:
                        yield running
                    except BaseException:
                        running.kill()
                        raise
            except (OSError, subprocess.TimeoutExpired) as error:
                what = f"table {table}: iptables-nft-{work}"
                raise KernelRefused(what, getattr(error, "errno", errno.ETIMEDOUT)) from error
            if running.returncode != 0:
                said.seek(0)
                raise _refused(table, said.read())


def _generation() -> int:
    try:
        return nfnetlink.generation()
    except OSError as error:
        raise KernelRefused("nf_tables", error.errno or errno.EINVAL) from error


def _lines(edit: TableEdit) -> Iterator[str]:
    """What iptables-restore reads, but for the word COMMIT."""
    yield f"*{edit.table}"
    yield from (f":{name} - [0:0]" for name in edit.created)
    yield from (f"-F {chain.name}" for chain in edit.filled if chain.name not in edit.created)
    yield from (f"-F {name}" for name in edit.deleted)
    for removal in edit.removals:
        yield f"-D {removal.chain} {removal.position + 1}"
    for insertion in edit.insertions:
        yield f"-I {insertion.chain} {insertion.position + 1}{_short_text(insertion.rule)}"
    for chain in edit.filled:
        yield from (f"-A {chain.name}{_short_text(rule)}" for rule in chain.rules)
    yield from (f"-X {name}" for name in edit.deleted)


def _short_text(rule: Rule) -> str:
    """A rule's text in few words: the program takes 255 (xshared.h, MAX_ARGC), 64 owner groups as
    they are usually spelled are 320."""
    return rule_text(rule).replace(" -m owner ! --gid-owner ", " -mowner ! --gid-owner=")


def _refused(name: str, said: bytes) -> KernelRefused:
    """What a program said, and which errno it meant."""
    text = " ".join(said.decode(errors="replace").split())
    numbers = (number for number in errno.errorcode if os.strerror(number) in text)
    return KernelRefused(f"table {name}: {text}", next(numbers, errno.EINVAL))
