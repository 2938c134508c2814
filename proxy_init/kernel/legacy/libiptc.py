"""One family's tables, read and written through libiptc with python-iptables.

Its habits, and what is done about them here:
- Importing it looks for its libraries by running programs; `load` tells it their sonames.
- What it makes of rules, and how that is used, stands in entries.py.
- It knows the options of an extension in the layout of iptables 1.8.10 and before: `_options_of`.
- libxtables may end the process on an error: use it in a child process, see system/workers.py.
"""

from __future__ import annotations

import _imp
import _socket
import errno
import sys
from types import ModuleType

from ...errors import NodeCannot
from ...light import cache, os, partial, suppress
from ...rules.model import BUILT_IN, Chain, Family, Table
from ...rules.reconcile import TableEdit
from ..system.c_types import ctypes
from ..system.proc import legacy_tables, read
from ..system.refusal import KernelRefused
from ..system.stand_ins import module, stand_ins
from .entries import EntryReader, EntryWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ...rules.counts import Count

_VERSION_OF_LIBXTABLES = 12
_SONAMES = {
    "ip4tc": "libip4tc.so.2",
    "ip6tc": "libip6tc.so.2",
    "xtables": f"libxtables.so.{_VERSION_OF_LIBXTABLES}",
}
_LARGEST_BASE = 36  # man 3 strtoul


def load() -> ModuleType:
    """The module iptc. Raises NodeCannot where a library that it needs is missing."""
    if "iptc" in sys.modules:
        return sys.modules["iptc"]
    for soname in _SONAMES.values():
        try:
            _shared(soname)
        except OSError as error:
            raise NodeCannot(
                f"the library {soname} can't be loaded ({error}); Debian's package iptables has it"
            ) from error
    if "XTABLES_LIBDIR" not in os.environ:
        os.environ["XTABLES_LIBDIR"] = _extensions_directory()
    ipv6 = module("iptc.ip6tc", is_table6_available=None, Table6=None, Rule6=None)  # `_load_for`
    with stand_ins({**_for_iptc(), "iptc.ip6tc": ipv6}):
        import iptc
    kind = iptc.xtables.xtables
    look_up, check = kind._option_lookup, kind._options_fcheck
    kind._option_lookup = lambda self, table, name: look_up(self, _options_of(table), name)
    kind._options_fcheck = lambda self, name, flags, table: check(
        self, name, flags, _options_of(table)
    )
    loaded: ModuleType = iptc
    return loaded


def _load_for(family: Family) -> ModuleType:
    """The module iptc, with iptc.ip6tc if it is for IPv6. Raises NodeCannot as `load` does."""
    loaded = load()
    if family is Family.V6 and not hasattr(loaded, "ip6tc"):
        with stand_ins(_for_iptc()):
            import iptc.ip6tc  # noqa: F401  now an attribute of `loaded`
    return loaded


def _options_of(table: Any) -> Iterator[Any]:
    """The entries of an extension's table of options, which one without a name ends.

    Since iptables 1.8.11 struct xt_option_entry has one field more (xtables.h: base, of a number)
    behind those that python-iptables knows, and the library is called libxtables.so.12 as before.
    """
    kind = table._type_
    size, larger = ctypes.sizeof(kind), ctypes.sizeof(kind) + ctypes.sizeof(ctypes.c_void_p)
    address = ctypes.addressof(table.contents)
    while (entry := kind.from_address(address)).name:
        yield entry
        behind = ctypes.c_size_t.from_address(address + size).value
        # The next entry begins with a pointer; a base is small, and behind the last all is zero.
        address += size if behind > _LARGEST_BASE else larger


def _for_iptc() -> Mapping[str, ModuleType]:
    """What python-iptables imports to look for its libraries by running programs, to run modprobe
    whether needed or not, to read what it is not asked to read, and for an interface of its own
    that is not used here: 25 ms, if it were loaded."""
    kinds = vars(ctypes) | {"Structure": type.__new__(_Needed, "Structure", (), {})}
    return {
        "ctypes": module("ctypes", **kinds),
        "iptc.easy": module("iptc.easy"),
        "iptc.util": module(
            "iptc.util",
            find_library=_library,
            find_libc=partial(_shared, "libc.so.6"),
            load_kernel=lambda _: None,
        ),
        "os": os,
        "re": module("re", compile=str),
        "shlex": module("shlex"),
        "socket": _socket,  # without the enumerations that are made of it
        # Its regular expressions lack the r in front, which newer Pythons warn about.
        "warnings": module("warnings", filters=[("ignore", None, Warning, None, 0)]),
        "weakref": module("weakref", WeakValueDictionary=dict),
    }


class _Needed(type):
    """The metaclass of a `ctypes.Structure` for python-iptables, which defines structures of all
    versions of libxtables: of other versions than ours it makes none."""

    def __new__(cls, name: str, bases: tuple[type, ...], content: dict[str, Any]) -> Any:
        kind, _, version = name.rpartition("_v")
        if kind in ("_xtables_match", "_xtables_target") and int(version) != _VERSION_OF_LIBXTABLES:
            return ctypes.c_void_p
        make: Any = type(ctypes.Structure)
        return make(name, (ctypes.Structure,), content)


def _library(name: str, *_: str) -> tuple[ctypes.CDLL, int]:
    """One of the libraries of iptables, or the one that python-iptables itself has."""
    if name in _SONAMES:
        return _shared(_SONAMES[name]), _VERSION_OF_LIBXTABLES
    package = sys.modules["iptc"].__path__[0]
    path = f"{package}/../lib{name}{_imp.extension_suffixes()[0]}"
    return _shared(path), 0


@cache
def _shared(name: str) -> ctypes.CDLL:
    """A library by its soname or path. Raises OSError."""
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def _extensions_directory() -> str:
    """Where libxtables keeps its extensions: `xtables` beside the library itself."""
    for line in read("/proc/self/maps").splitlines():
        if "/libxtables.so." in line:
            return line.split(maxsplit=5)[5].rpartition("/")[0] + "/xtables"
    return "/usr/lib/xtables"


class Tables:
    """The tables of one family in this process's network namespace."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._iptc = _load_for(family)
        self._table = self._iptc.Table if family is Family.V4 else self._iptc.ip6tc.Table6
        # It keeps tables for the life of the process, as they were, perhaps in another namespace.
        self._table._cache.clear()
        self._open: dict[str, Any] = {}
        self._reader = EntryReader(self._iptc, family)
        self._writer = EntryWriter(self._iptc, family)

    def instantiated(self) -> tuple[str, ...]:
        """Those of the tables that this namespace has."""
        return legacy_tables(self._family)

    def read(self, name: str) -> Table:
        """All that the table holds now. Raises KernelRefused."""
        table = self._fresh(name)
        known: dict[bytes, Any] = {}
        return Table(
            name,
            tuple(
                Chain(
                    chain.name,
                    tuple(self._reader.read(table, _entries(table, chain), known)),
                    policy=getattr(chain.get_policy(), "name", None),
                )
                for chain in table.chains
            ),
        )

    def counts(self, name: str) -> dict[str, tuple[Count, ...]]:
        """By chain, what each rule of a table had counted when it was last read; a table that was
        never read has no chains."""
        from ...rules.counts import Count

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
                entry = self._writer.write(insertion.rule)
                table.insert_entry(insertion.chain, entry, insertion.position)
            for chain in edit.filled:
                for rule in chain.rules:
                    table.append_entry(chain.name, self._writer.write(rule))
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
        try:
            try:
                self._reopen(name)
            except self._iptc.IPTCError:
                if _errno() not in (errno.ENOENT, errno.ENOPROTOOPT):
                    raise
                _load_kernel_module(self._family)
                self._reopen(name)
        except self._iptc.IPTCError as error:
            raise KernelRefused(f"table {name}", _errno()) from error
        return self._open[name]

    def _reopen(self, name: str) -> None:
        if name in self._open:
            self._open[name].refresh()
        else:
            self._open[name] = self._table(name, autocommit=False)

    def _delete(self, table: Any, chain: str, position: int) -> None:
        # Table has no method for it; the ones it has delete by content, which may stand twice.
        calls = self._iptc.ip4tc.iptc if self._family is Family.V4 else self._iptc.ip6tc.ip6tc
        if calls.iptc_delete_num_entry(chain.encode(), position, table._handle) != 1:
            raise KernelRefused(f"rule {position + 1} of {chain} in table {table.name}", _errno())


def _load_kernel_module(family: Family) -> None:
    """Try to have the module loaded on which all tables of a family rest. The kernel itself loads
    only those above it; and in a container neither it nor we can."""
    import subprocess

    name = "ip_tables" if family is Family.V4 else "ip6_tables"
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["modprobe", name], capture_output=True, timeout=10, check=False)


def _errno() -> int:
    """What the C library's errno holds; python-iptables turns it into words only."""
    location = _shared("libc.so.6").__errno_location
    location.restype = ctypes.POINTER(ctypes.c_int)
    return int(location()[0]) or errno.EINVAL


def _entries(table: Any, chain: Any) -> Iterator[Any]:
    entry = table.first_rule(chain.name)
    while entry:
        yield entry
        entry = table.next_rule(entry)
