"""All of nf_tables that matters, as the kernel held it at one generation, and what it means.

Three kinds of tables may hold rules that packets meet: our own (Istio's native ones have the same
names, and are replaced and cleaned as ours), those that iptables-nft has made, where rules of ours
may stand among others', and all others.
"""

from __future__ import annotations

import errno
from struct import unpack_from

from ...frozen import Frozen
from ...light import os
from ...rules.inet_tables import (
    BOTH,
    INET,
    TABLES,
    Hook,
    Placed,
    hook_of,
    name_in_model,
    split,
)
from ...rules.model import BUILT_IN, Chain, Family, Table
from ..system.netlink import (
    Attributes,
    Connection,
    Message,
    attribute,
    attributes,
    each_attribute,
    nested,
    text,
    to_number,
    to_text,
)
from .codec import NUMBERS, Reading, reading_of
from .names import GET_TABLE, SUBSYSTEM, body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ...analysis.kernel_rules import KernelTable
    from ...rules.counts import Count
    from .codec import Sets

_GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS, _GET_GENERATION = 4, 7, 10, 13, 16
INTERVAL = 4  # NFT_SET_INTERVAL
_DORMANT = 1  # NFT_TABLE_F_DORMANT
_MOST_READINGS = 100
_POLICIES = {0: "DROP", 1: "ACCEPT"}
_FAMILY_OF = {number: family for family, number in NUMBERS.items()}
TITLES = {INET: "inet", NUMBERS[Family.V4]: "ip", NUMBERS[Family.V6]: "ip6"}
"""How the program nft calls families."""


class RawRule(Frozen):
    """A rule as the kernel tells it."""

    handle: int
    expressions: bytes
    userdata: bytes
    protocol: int = 0
    """Of a rule with bytes of x_tables that the kernel shall take back: the protocol that it asks
    for, which the kernel does not tell."""


class RawChain(Frozen):
    """A chain as the kernel tells it; `policy` is that of a base chain, which has a hook."""

    name: str
    hook: Hook | None
    policy: str | None
    rules: tuple[RawRule, ...]


class RawSet(Frozen):
    """A set as the kernel tells it: the attributes that make it, and its elements."""

    name: str
    made: bytes
    elements: tuple[bytes, ...]


class RawTable(Frozen):
    """A table, of a family or of both, as the kernel tells it."""

    family: int
    name: str
    chains: Mapping[str, RawChain]
    sets: tuple[RawSet, ...] = ()
    dormant: bool = False
    """Whether packets meet none of its chains, for the time being."""

    @property
    def title(self) -> str:
        """How the program nft calls it."""
        return f"{TITLES[self.family]} {self.name}"


class Snapshot(Frozen):
    """The tables at one generation of this namespace's rules."""

    generation: int
    tables: tuple[RawTable, ...] = ()

    def ours(self, name: str) -> RawTable | None:
        """Our table of that name."""
        return self._table(INET, TABLES[name])

    def left(self, family: Family, name: str) -> RawTable | None:
        """A family's table of that name, as iptables-nft makes it."""
        return self._table(NUMBERS[family], name)

    def _table(self, family: int, name: str) -> RawTable | None:
        found = (t for t in self.tables if (t.family, t.name) == (family, name))
        return next(found, None)


def generation(connection: Connection) -> int:
    """A number that grows with each change of this namespace's rules.

    Raises OSError: EOPNOTSUPP where the kernel has netfilter's netlink, but no nf_tables.
    """
    try:
        answer = connection.ask(Message(SUBSYSTEM | _GET_GENERATION, body(0)))
    except OSError as error:
        # It says EINVAL of a subsystem that it does not know, net/netfilter/nfnetlink.c.
        number = errno.EOPNOTSUPP if error.errno == errno.EINVAL else error.errno
        raise OSError(number, os.strerror(number or errno.EIO)) from error
    return to_number(attributes(answer[4:])[1])


def read(connection: Connection, everything: bool = False) -> Snapshot:
    """Our tables and iptables-nft's, or with `everything` all that packets of IP may meet.

    Raises OSError.
    """
    for _ in range(_MOST_READINGS):
        now = generation(connection)
        tables = tuple(_tables(connection, everything))
        if not tables or generation(connection) == now:
            return Snapshot(now, tables)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _is_wanted(family: int, name: str, everything: bool) -> bool:
    if family == INET:
        return everything or name in TABLES.values()
    return family in _FAMILY_OF and (everything or name in BUILT_IN)


def _dumped(connection: Connection, kind: int, family: int, *parts: bytes) -> Iterator[Attributes]:
    for answer in connection.dump(Message(SUBSYSTEM | kind, body(family, *parts))):
        yield attributes(answer[4:])


def _tables(connection: Connection, everything: bool) -> Iterator[RawTable]:
    answers = connection.dump(Message(SUBSYSTEM | GET_TABLE, body(0)))
    told = [(answer[0], attributes(answer[4:])) for answer in answers]
    flags = {(family, to_text(parts[1])): to_number(parts.get(2, b"")) for family, parts in told}
    names = [key for key in flags if _is_wanted(*key, everything)]
    for family in dict.fromkeys(family for family, _ in names):
        chains = list(_dumped(connection, _GET_CHAIN, family))
        sets = list(_dumped(connection, _GET_SET, family))
        for name in (name for other, name in names if other == family):
            rules: dict[str, list[RawRule]] = {}
            for rule in _dumped(connection, _GET_RULE, family, text(1, name)):
                if to_text(rule[1]) == name:
                    raw = RawRule(to_number(rule[3]), rule.get(4, b""), rule.get(7, b""))
                    rules.setdefault(to_text(rule[2]), []).append(raw)
            made = [_chain(chain, rules) for chain in chains if to_text(chain[1]) == name]
            yield RawTable(
                family,
                name,
                {chain.name: chain for chain in made},
                tuple(_set(connection, family, s) for s in sets if to_text(s[1]) == name),
                bool(flags[family, name] & _DORMANT),
            )


def _chain(parts: Attributes, rules: Mapping[str, Sequence[RawRule]]) -> RawChain:
    name = to_text(parts[3])
    hook = policy = None
    if 4 in parts:
        where = attributes(parts[4])
        priority = int.from_bytes(where[2], "big", signed=True)
        hook = Hook(to_number(where[1]), priority, to_text(parts[7]))
        policy = _POLICIES[to_number(parts[5])]
    return RawChain(name, hook, policy, tuple(rules.get(name, ())))


_OF_A_NEW_SET = (2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13)


def _set(connection: Connection, family: int, parts: Attributes) -> RawSet:
    question = (text(1, to_text(parts[1])), text(2, to_text(parts[2])))
    answers = _dumped(connection, _GET_ELEMENTS, family, *question)
    made = b"".join(_again(kind, parts[kind]) for kind in _OF_A_NEW_SET if kind in parts)
    return RawSet(to_text(parts[2]), made, tuple(answer[3] for answer in answers if answer.get(3)))


def _again(kind: int, value: bytes) -> bytes:
    return nested(kind, value) if kind == 9 else attribute(kind, value)


# What it means.

_KEY, _ELEMENT_FLAGS, _KEY_END = 1, 3, 10
_INTERVAL_END = 1  # NFT_SET_ELEM_INTERVAL_END


def ranges_of(raw: RawSet) -> tuple[tuple[bytes, bytes], ...]:
    """The first and the last of each of a set's ranges of values, in order.

    A set of intervals holds where each begins, and behind it where it has ended.
    """
    marks: list[tuple[bytes, bool]] = []
    for elements in raw.elements:
        for _, element in each_attribute(elements):
            length, kind = unpack_from("=HH", element)
            if kind & 0x3FFF != _KEY:  # what is in the set that is in no other place of it
                continue
            rest = element[length + 3 & ~3 :]
            # Most have no more than a key, which is a value in an attribute in an attribute.
            (key_end,) = unpack_from("=H", element, 4)  # without its padding
            flags = attributes(rest).get(_ELEMENT_FLAGS, b"") if rest else b""
            marks.append((element[8 : 4 + key_end], bool(flags and flags[3] & _INTERVAL_END)))
    if not attributes(raw.made).get(3, bytes(4))[3] & INTERVAL:
        return tuple(sorted((key, key) for key, _ in marks))
    # Where one ends another may begin.
    marks.sort(key=lambda mark: mark[0] + (b"\0" if mark[1] else b"\1"))
    ranges: list[tuple[bytes, bytes]] = []
    first: bytes | None = None
    for key, is_end in marks:
        if not is_end:
            first = key
        elif first is not None:
            ranges.append((first, (to_number(key) - 1).to_bytes(len(key), "big")))
            first = None
    if first is not None:
        ranges.append((first, b"\xff" * len(first)))
    return tuple(ranges)


class View(Frozen):
    """One family's view of a table: its rules in the model, and by chain what each has counted and
    which one of the chain it is, from 0."""

    table: Table
    counts: Mapping[str, tuple[Count | None, ...]]
    places: Mapping[str, tuple[int, ...]]
    uncounted: frozenset[str] = frozenset()
    """The chains with rules that do not count."""


def our_view(snapshot: Snapshot, name: str, family: Family) -> View:
    """What our table of that name holds for a family; an empty one where it is not there."""
    raw = snapshot.ours(name)
    if raw is None:
        return View(Table.empty(name), {}, {})
    return _view(name, raw, family, lambda chain: _our_name(name, chain), name_in_model)


def left_view(snapshot: Snapshot, name: str, family: Family) -> View | None:
    """What iptables-nft's table of that name holds."""
    raw = snapshot.left(family, name)
    if raw is None:
        return None
    view = _view(name, raw, family, lambda chain: chain.name, str)
    # The kernel has a chain of the program's only if something was ever put in.
    chains = {chain.name: chain for chain in view.table.chains}
    empty = {chain.name: chain for chain in Table.empty(name).chains}
    return View(Table(name, tuple({**empty, **chains}.values())), view.counts, view.places)


def _our_name(table: str, chain: RawChain) -> str:
    """A chain's name in the model; one that is not called where ours is keeps its own, and says
    where it is called."""
    name = name_in_model(chain.name)
    if chain.hook == hook_of(table, name):
        return name
    hook = chain.hook
    return chain.name if hook is None else f"{chain.name}@{hook.kind},{hook.number},{hook.priority}"


def _view(
    name: str,
    raw: RawTable,
    family: Family,
    chain_name: Callable[[RawChain], str],
    leads_to: Callable[[str], str],
) -> View:
    readings = {
        chain_name(raw.chains[chain]): each for chain, each in _readings(raw, leads_to).items()
    }
    if raw.dormant:
        readings = {chain: [] for chain in readings}
    placed = {
        chain: [Placed(reading.families, reading.rule) for reading in each]
        for chain, each in readings.items()
    }
    table = split(placed, name, family)
    policies = {chain_name(chain): chain.policy for chain in raw.chains.values()}
    chains = tuple(
        Chain(chain.name, chain.rules, policy=policies[chain.name]) for chain in table.chains
    )
    counts, places = {}, {}
    for chain, each in readings.items():
        own = [(place, r) for place, r in enumerate(each) if family in r.families]
        counts[chain] = tuple(reading.count for _, reading in own)
        places[chain] = tuple(place for place, _ in own)
    uncounted = frozenset(
        chain for chain, each in readings.items() if any(r.count is None for r in each)
    )
    return View(Table(name, chains), counts, places, uncounted)


def _readings(raw: RawTable, leads_to: Callable[[str], str]) -> Mapping[str, list[Reading]]:
    """What each chain's rules mean, by the kernel's name of the chain. A table is asked for several
    times, for each family, and read once."""
    known: dict[Callable[[str], str], Mapping[str, list[Reading]]]
    known = raw.__dict__.setdefault("_readings", {})
    if leads_to not in known:
        sets = {each.name: ranges_of(each) for each in raw.sets}
        known[leads_to] = {
            chain.name: [_read(raw, rule, leads_to, sets) for rule in chain.rules]
            for chain in raw.chains.values()
        }
    return known[leads_to]


def _read(raw: RawTable, rule: RawRule, leads_to: Callable[[str], str], sets: Sets) -> Reading:
    family = _FAMILY_OF.get(raw.family)
    return reading_of(rule.expressions, rule.userdata, family, leads_to, sets)


def walkable(snapshot: Snapshot, family: Family) -> list[KernelTable]:
    """All tables with rules that a family's packets meet, in the order in which they meet them."""
    from ...analysis.kernel_rules import KernelTable, TableKind
    from ...rules.native_tables import NativeChain, NativeTable, met

    readings: dict[NativeTable, Mapping[str, Sequence[Reading]]] = {}
    for raw in snapshot.tables:
        if raw.dormant:
            continue
        read = _readings(raw, str)
        chains = (
            NativeChain(
                chain.name,
                chain.hook,
                chain.policy,
                tuple(Placed(each.families, each.rule) for each in read[chain.name]),
            )
            for chain in raw.chains.values()
        )
        families = (_FAMILY_OF[raw.family],) if raw.family in _FAMILY_OF else BOTH
        readings[NativeTable(families, raw.name, tuple(chains))] = read
    return [
        KernelTable(
            each.priority,
            each.title,
            each.table,
            {
                name: tuple(r.count for r in readings[each.of][native] if family in r.families)
                for name, native in each.native_names.items()
            },
            TableKind.NATIVE
            if each.is_ours
            else TableKind.IPTABLES_NFT
            if each.is_of_iptables
            else TableKind.OTHERS,
        )
        for each in met([*readings], family)
    ]
