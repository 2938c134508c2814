"""One family's tables, read and written through libiptc with python-iptables.

Its habits, and what is done about them here:
- Importing it looks for its libraries by running programs; `load` tells it their sonames.
- A rule asks every table of the family whether its target is a chain, and so makes the kernel set
  those tables up; `_rule_class` makes it ask the one table that it belongs to.
- For IPv6 it masks interface names with 0x01 instead of 0xff, so that eth0 would match eth2; names
  are set here. Its idea of an existing match or target is right only for the revision that
  libxtables knows; others are kept as unknown.
- `final_check` is needed for targets (REDIRECT gets its range count there) and spoils comments.
- libxtables may end the process on an error: work with it in a child process, see workers.py.
"""

import ctypes
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from types import ModuleType
from typing import Any

from ..counters import Count
from ..errors import NodeCannot
from ..matches import (
    ACCEPT,
    DROP,
    RETURN,
    Destination,
    InInterface,
    Jump,
    Match,
    Option,
    OutInterface,
    Protocol,
    Source,
    Target,
    UnknownMatch,
    UnknownTarget,
    read_match,
    read_target,
)
from ..model import BUILT_IN, Chain, Family, Rule, Table
from ..reconcile import TableEdit
from ..text import network_text
from .refusal import KernelRefused

_SONAMES = {
    "c": "libc.so.6",
    "ip4tc": "libip4tc.so.2",
    "ip6tc": "libip6tc.so.2",
    "libxtables.so.12": "libxtables.so.12",
}
_VERDICTS = {target.name: target for target in (ACCEPT, DROP, RETURN)}


def load() -> ModuleType:
    """The module iptc. Raises NodeCannot where a library that it needs is missing."""
    if "iptc" in sys.modules:
        return sys.modules["iptc"]
    for soname in _SONAMES.values():
        try:
            ctypes.CDLL(soname, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise NodeCannot(
                f"the library {soname} can't be loaded ({error}); Debian's package iptables has it"
            ) from error
    os.environ["PYTHON_IPTABLES_XTABLES_VERSION"] = "12"
    os.environ.setdefault("XTABLES_LIBDIR", _extensions_directory())
    with _sonames_found(), warnings.catch_warnings():
        # Its regular expressions lack the r in front, which newer Pythons warn about.
        warnings.simplefilter("ignore")
        import iptc
    module: ModuleType = iptc
    return module


@contextmanager
def _sonames_found() -> Iterator[None]:
    """Let ctypes.util.find_library answer for the libraries above without running programs."""
    import ctypes.util

    find_library = ctypes.util.find_library
    ctypes.util.find_library = lambda name: _SONAMES.get(name)
    try:
        yield
    finally:
        ctypes.util.find_library = find_library


def _extensions_directory() -> str:
    """Where libxtables keeps its extensions: `xtables` beside the library itself."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/libxtables.so." in line:
            return str(Path(line.split(maxsplit=5)[5]).parent / "xtables")
    return "/usr/lib/xtables"


class Tables:
    """The tables of one family in this process's network namespace."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._iptc = load()
        self._open: dict[str, Any] = {}
        self._new_rule: dict[str, Any] = {}

    def instantiated(self) -> tuple[str, ...]:
        """The tables that this namespace has; the kernel makes one when it is first read."""
        prefix = "ip" if self._family is Family.V4 else "ip6"
        try:
            names = Path(f"/proc/self/net/{prefix}_tables_names").read_text().split()
        except FileNotFoundError:
            return ()
        except OSError:  # readable for root only
            return tuple(BUILT_IN)
        return tuple(name for name in BUILT_IN if name in names)

    def read(self, name: str) -> Table:
        """All that the table holds now. Raises KernelRefused."""
        table = self._fresh(name)
        return Table(
            name,
            tuple(
                Chain(
                    chain.name,
                    tuple(self._read_rule(table, chain, entry) for entry in _entries(table, chain)),
                    policy=getattr(chain.get_policy(), "name", None),
                )
                for chain in table.chains
            ),
        )

    def counts(self, name: str) -> dict[str, tuple[Count, ...]]:
        """By chain, what each rule of a table had counted when it was last read; a table that was
        never read has no chains."""
        table = self._open.get(name)
        return {
            chain.name: tuple(
                Count(entry.counters.pcnt, entry.counters.bcnt) for entry in _entries(table, chain)
            )
            for chain in (table.chains if table else ())
        }

    def stage(self, edit: TableEdit) -> None:
        """Prepare an edit of the table as it was last read. Raises KernelRefused."""
        table = self._open[edit.table]
        try:
            for name in edit.created:
                table.create_chain(name)
            for name in (*edit.deleted, *(chain.name for chain in edit.filled)):
                table.flush_entries(name)
            for removal in edit.removals:
                self._delete(table, removal.chain, removal.position)
            for insertion in edit.insertions:
                entry = self._entry(table, insertion.rule)
                table.insert_entry(insertion.chain, entry, insertion.position)
            for chain in edit.filled:
                for rule in chain.rules:
                    table.append_entry(chain.name, self._entry(table, rule))
            for name in edit.deleted:
                table.delete_chain(name)
            for name in BUILT_IN[edit.table]:
                # libiptc zeroes the counts of every policy unless they are set.
                table.set_policy(name, *table.get_policy(name))
        except self._iptc.IPTCError as error:
            raise KernelRefused(f"table {edit.table}: {error}", _errno()) from error
        except self._iptc.XTablesError as error:
            # libxtables found no extension that this kernel has too.
            raise KernelRefused(f"table {edit.table}: {error}", errno.ENOENT) from error

    def commit(self, name: str) -> None:
        """Write what was staged for a table, all or nothing.

        Raises KernelRefused, with EAGAIN if somebody else changed the table since it was read.
        """
        try:
            self._open[name].commit()
        except self._iptc.IPTCError as error:
            raise KernelRefused(f"table {name}", _errno()) from error

    def _fresh(self, name: str) -> Any:
        make = self._iptc.Table if self._family is Family.V4 else self._iptc.Table6
        try:
            if name in self._open:
                self._open[name].refresh()
            else:
                self._open[name] = make(name, autocommit=False)
                self._new_rule[name] = self._rule_class(self._open[name])
        except self._iptc.IPTCError as error:
            raise KernelRefused(f"table {name}", _errno()) from error
        return self._open[name]

    def _delete(self, table: Any, chain: str, position: int) -> None:
        # Table has no method for it; the ones it has delete by content, which may stand twice.
        calls = self._iptc.ip4tc.iptc if self._family is Family.V4 else self._iptc.ip6tc.ip6tc
        if calls.iptc_delete_num_entry(chain.encode(), position, table._handle) != 1:
            raise KernelRefused(f"rule {position + 1} of {chain} in table {table.name}", _errno())

    def _rule_class(self, table: Any) -> Any:
        base = self._iptc.Rule if self._family is Family.V4 else self._iptc.Rule6
        return type("RuleOfOneTable", (base,), {"tables": (table,)})

    # From the model to a kernel entry.

    def _entry(self, table: Any, rule: Rule) -> Any:
        made = self._new_rule[table.name]()
        for match in rule.matches:
            self._add_match(made, match)
        target = made.create_target(rule.target.name)
        for option in rule.target.options():
            target.set_parameter(option.name, option.value)
        if rule.target.options():
            target.final_check()
        return made.rule

    def _add_match(self, made: Any, match: Match) -> None:
        match match:
            case Source(network, negated):
                made.src = "!" * negated + network_text(network)
            case Destination(network, negated):
                made.dst = "!" * negated + network_text(network)
            case InInterface(name, negated):
                self._set_interface(made.get_ip(), "in", name, negated)
            case OutInterface(name, negated):
                self._set_interface(made.get_ip(), "out", name, negated)
            case Protocol(name, negated):
                made.protocol = "!" * negated + name
            case _:
                extension = made.create_match(match.name)
                for option in match.options():
                    words = ["!", option.value] if option.negated else [option.value]
                    extension.set_parameter(option.name, words)

    def _set_interface(self, header: Any, direction: str, name: str, negated: bool) -> None:
        bare = os.fsencode(name.removesuffix("+"))
        # A whole name includes its final zero byte, a prefix does not.
        length = len(bare) + (not name.endswith("+"))
        setattr(header, f"{direction}iface", bare)
        setattr(header, f"{direction}iface_mask", b"\xff" * length)
        if negated:
            header.invflags |= _VIA_IN if direction == "in" else _VIA_OUT

    # From a kernel entry to the model.

    def _read_rule(self, table: Any, chain: Any, entry: Any) -> Rule:
        made = self._new_rule[table.name]()
        made.chain = chain
        ctypes.memmove(ctypes.byref(made.entry), ctypes.byref(entry), ctypes.sizeof(entry))
        matches = (*_read_header(made), *self._read_matches(made, entry))
        return Rule(matches, self._read_target(made, table, entry))

    def _read_matches(self, made: Any, entry: Any) -> Iterator[Match]:
        xtables = self._iptc.xtables
        offset = ctypes.sizeof(entry)
        while offset < entry.target_offset:
            raw = xtables.xt_entry_match.from_address(ctypes.addressof(entry) + offset)
            name = raw.u.user.name.decode()
            module = xtables.xtables(made.nfproto).find_match(name)
            size = raw.u.user.match_size
            if _knows(xtables, module, raw.u.user.revision, size, xtables.xt_entry_match):
                extension = self._iptc.Match(made, match=raw)
                yield read_match(extension.name, _options(extension))
            else:
                yield UnknownMatch(name, (Option("revision", str(raw.u.user.revision)),))
            offset += size

    def _read_target(self, made: Any, table: Any, entry: Any) -> Target:
        goto = bool(made.get_ip().flags & (0x02 if self._family is Family.V4 else 0x04))
        jump = table.get_target(entry)
        xtables = self._iptc.xtables
        address = ctypes.addressof(entry) + entry.target_offset
        raw = xtables.xt_entry_target.from_address(address)
        name = jump.decode() if jump else raw.u.user.name.decode()
        if goto:
            return UnknownTarget(name, goto=True)
        if name in _VERDICTS:
            return _VERDICTS[name]
        if table.is_chain(name):
            return Jump(name)
        if name in ("", "standard"):
            return UnknownTarget("")
        module = xtables.xtables(made.nfproto).find_target(name)
        size = raw.u.user.target_size
        if not _knows(xtables, module, raw.u.user.revision, size, xtables.xt_entry_target):
            return UnknownTarget(name, (Option("revision", str(raw.u.user.revision)),))
        extension = self._iptc.Target(made, target=raw)
        return read_target(extension.name, _options(extension))


_VIA_IN, _VIA_OUT = 0x01, 0x02  # IPT_INV_VIA_IN and _OUT, the same bits for IPv6


def _errno() -> int:
    """What the C library's errno holds; python-iptables turns it into words only."""
    location = ctypes.CDLL(None).__errno_location
    location.restype = ctypes.POINTER(ctypes.c_int)
    return int(location()[0]) or errno.EINVAL


def _entries(table: Any, chain: Any) -> Iterator[Any]:
    entry = table.first_rule(chain.name)
    while entry:
        yield entry
        entry = table.next_rule(entry)


def _knows(xtables: Any, module: Any, revision: int, size: int, header: Any) -> bool:
    """Whether libxtables' extension is the one that this part of an entry was made with."""
    if not module:
        return False
    expected = xtables.xt_align(module[0].size + ctypes.sizeof(header))
    return bool(module[0].revision == revision and expected == size)


def _options(extension: Any) -> tuple[Option, ...]:
    # libxtables quotes ' as \', which shlex, and so python-iptables, leaves as it is.
    return tuple(
        Option(name, " ".join(words[words[:1] == ["!"] :]).replace("\\'", "'"), words[:1] == ["!"])
        for name, words in extension.get_all_parameters().items()
    )


def _read_header(made: Any) -> Iterator[Match]:
    header = made.get_ip()
    for text, kind in ((made.src, Source), (made.dst, Destination)):
        try:
            yield kind(ip_network(text.removeprefix("!")), text.startswith("!"))
        except ValueError:  # a mask that is no prefix
            yield UnknownMatch(kind.__name__, (Option("network", text),))
    for direction, interface, bit in (
        ("in", InInterface, _VIA_IN),
        ("out", OutInterface, _VIA_OUT),
    ):
        name = getattr(header, f"{direction}iface")
        mask = getattr(header, f"{direction}iface_mask")
        negated = bool(header.invflags & bit)
        if mask and mask == b"\xff" * len(mask) and len(mask) - len(name) in (0, 1):
            yield interface(os.fsdecode(name) + "+" * (len(mask) == len(name)), negated)
        elif mask:
            yield UnknownMatch(interface.__name__, (Option(os.fsdecode(name), mask.hex()),))
    if header.proto:
        yield Protocol(made.protocol.removeprefix("!"), made.protocol.startswith("!"))
    if made.nfproto == 2 and header.flags & 0x01:
        yield UnknownMatch("fragment", (Option("f", negated=bool(header.invflags & 0x20)),))
