"""From what nf_tables hold to what they shall hold: the messages of one transaction.

Pure. A table of ours is never deleted and made again while packets meet it: its chains stay where
they are, and only those are filled anew whose rules differ, so that the others keep their counts.
"""

from __future__ import annotations

from ...frozen import Frozen, replace
from ...rules.inet_tables import (
    INET,
    LONGEST_COMMENT,
    TABLES,
    Hook,
    Placed,
    hook_of,
    merged,
    name_in_kernel,
    name_in_model,
    sets_of,
)
from ...rules.matches import Protocol
from ...rules.model import BUILT_IN, Family, Rule, Table
from ..system.netlink import (
    ACK,
    APPEND,
    CREATE,
    Message,
    attribute,
    attributes,
    nested,
    number,
    text,
    to_number,
)
from .codec import PROTOCOLS, expressions_of, userdata_of
from .names import SUBSYSTEM, body
from .snapshot import (
    INTERVAL,
    RawRule,
    RawSet,
    RawTable,
    Snapshot,
    left_view,
    our_view,
    ranges_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ...rules.matches import DestinationSet
    from ...rules.reconcile import TableEdit

_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _DELETE_CHAIN = 0, 2, 3, 5
_NEW_RULE, _DELETE_RULE = 6, 8
NEW_SET, DELETE_SET, NEW_ELEMENTS = 9, 11, 12
_BATCH_BEGIN, _BATCH_END = 16, 17
_NFNL_SUBSYSTEM = 10
_GENERATION = 1  # NFNL_BATCH_GENID
_ACCEPT = 1
_POLICIES = {"DROP": 0, "ACCEPT": 1}


class Aim(Frozen):
    """What a transaction brings about: the content of tables of ours, by name and family, and
    which of iptables-nft's tables are cleared of what is ours, by family and name."""

    tables: Mapping[str, Mapping[Family, Table]] = {}
    cleared: tuple[tuple[Family, str], ...] = ()
    force: bool = False
    kept: tuple[str, ...] = ()
    """Tables of ours that stay though nothing is wanted in them."""


def transaction(changes: Sequence[Message], generation: int | None) -> list[Message]:
    """Changes as one transaction, which the kernel refuses with ERESTART if its rules are of
    another generation by then."""
    known = (number(_GENERATION, generation),) if generation is not None else ()
    *changes, last = changes
    return [
        Message(_BATCH_BEGIN, body(0, *known, resource=_NFNL_SUBSYSTEM)),
        *changes,
        Message(last.kind, last.body, last.flags | ACK),
        Message(_BATCH_END, body(0, resource=_NFNL_SUBSYSTEM)),
    ]


def changes(snapshot: Snapshot, aim: Aim) -> list[Message]:
    """The messages that lead from a snapshot to an aim; none where it is reached.

    Raises CannotSay where a rule cannot be written.
    """
    found: list[Message] = []
    for name, tables in aim.tables.items():
        found += _ours_changed(snapshot, name, tables, aim)
    if aim.cleared:
        from ...rules.ownership import Ours
        from ...rules.reconcile import edit
    for family, name in aim.cleared:
        view = left_view(snapshot, name, family)
        change = edit(view.table, Ours()) if view else None
        raw = snapshot.left(family, name)
        if change and raw:
            found += _left_changed(raw, change, {})
    return found


def differing(
    snapshot: Snapshot,
    name: str,
    tables: Mapping[Family, Table],
    families: Sequence[Family] = tuple(Family),
) -> set[str]:
    """The chains of our table of that name, as the model calls them, that differ for a family, or
    whose rules do not count."""
    chains: set[str] = set()
    for family in families:
        view = our_view(snapshot, name, family)
        here = _content(view.table)
        wanted = _content(tables.get(family, Table(name, ())))
        chains |= {each for each in here | wanted if here.get(each) != wanted.get(each)}
        chains |= view.uncounted
    return chains


def _content(table: Table) -> dict[str, object]:
    """A table's chains with their rules; an empty base chain that accepts all is like none."""
    content = {chain.name: (chain.policy or "ACCEPT", chain.rules) for chain in table.chains}
    return {
        name: value
        for name, value in content.items()
        if not (name in BUILT_IN[table.name] and value == ("ACCEPT", ()))
    }


def _ours_changed(
    snapshot: Snapshot, name: str, tables: Mapping[Family, Table], aim: Aim
) -> Iterator[Message]:
    raw, force = snapshot.ours(name), aim.force
    wanted = merged(tables)
    if not wanted:
        if raw and name not in aim.kept:
            yield _message(_DELETE_TABLE, INET, text(1, TABLES[name]))
        elif raw and raw.chains:
            yield from _remade(INET, TABLES[name], raw, set(), set())
        return
    differ = differing(snapshot, name, tables)
    if not (differ or force or raw is None or raw.dormant or _unasked(raw, wanted)):
        return
    chains = {name_in_kernel(chain): rules for chain, rules in wanted.items()}
    fitting = {
        chain.name
        for chain in (raw.chains.values() if raw else ())
        if chain.name in chains and chain.hook == _hook(name, chain.name)
    }
    changed = {
        chain
        for chain in chains
        if force or chain not in fitting or differ & {name_in_model(chain)} or (raw and raw.dormant)
    }
    yield from _remade(INET, TABLES[name], raw, fitting - changed, fitting)
    sets = sets_of(wanted)
    kept = {each.name for each in (raw.sets if raw else ()) if _is(each, sets.get(each.name))}
    for old in raw.sets if raw else ():
        if old.name not in kept and not is_anonymous(old):
            yield delete_set(TABLES[name], old.name)
    for title, wanted_set in sets.items():
        if title not in kept:
            yield from new_set(TABLES[name], wanted_set)
    accepting = {c.name for c in (raw.chains.values() if raw else ()) if c.policy != "DROP"}
    for chain in chains:
        if chain not in fitting or chain not in accepting:
            yield new_chain(INET, TABLES[name], chain, _hook(name, chain))
    for chain, rules in chains.items():
        if chain in changed:
            for each in rules:
                yield new_rule(INET, TABLES[name], chain, _raw(each))


def has_unasked_sets(snapshot: Snapshot, name: str, tables: Mapping[Family, Table]) -> bool:
    """Whether our table of that name has sets for which none of the wanted rules asks: what is left
    of a run that was killed while it sent them in pieces."""
    raw = snapshot.ours(name)
    return bool(raw and raw.sets and _unasked(raw, merged(tables)))


def _unasked(raw: RawTable, wanted: Mapping[str, Sequence[Placed]]) -> bool:
    names = {each.name for each in raw.sets if not is_anonymous(each)}
    return not names <= sets_of(wanted).keys()


def _is(raw: RawSet, wanted: DestinationSet | None) -> bool:
    """Whether the kernel's set is the one that is wanted."""
    if wanted is None:
        return False
    here = ((to_number(first), to_number(last)) for first, last in ranges_of(raw))
    return tuple(here) == wanted.ranges


def is_anonymous(raw: RawSet) -> bool:
    """Whether a set belongs to one rule, and goes with it."""
    return bool(attributes(raw.made).get(3, bytes(4))[3] & 1)  # NFT_SET_ANONYMOUS


def _hook(table: str, chain: str) -> Hook | None:
    return hook_of(table, name_in_model(chain))


def _raw(placed: Placed) -> RawRule:
    data = expressions_of(placed.rule, placed.families, name_in_kernel)
    return RawRule(0, data, userdata_of(placed.rule))


def _remade(
    family: int, name: str, raw: RawTable | None, kept: set[str], standing: set[str]
) -> Iterator[Message]:
    """Make a table if it is not there; empty its chains but those `kept`, and delete those not
    `standing`."""
    yield new_table(family, name)
    if raw is None:
        return
    for chain in raw.chains.values():
        if chain.name not in kept and chain.rules:
            yield _message(_DELETE_RULE, family, text(1, name), text(2, chain.name))
    for chain in raw.chains.values():
        if chain.name not in standing:
            yield _message(_DELETE_CHAIN, family, text(1, name), text(3, chain.name))


def _left_changed(
    raw: RawTable, change: TableEdit, raw_rules: Mapping[Rule, RawRule]
) -> Iterator[Message]:
    """An edit of a table that iptables-nft has made; `raw_rules` are those that it may put in."""
    names = (text(1, raw.name),)
    family = raw.family
    for name in change.created:
        yield new_chain(family, raw.name, name, None)
    for name in (*change.deleted, *(chain.name for chain in change.filled)):
        if name not in change.created:
            yield _message(_DELETE_RULE, family, *names, text(2, name))
    for removal in change.removals:
        handle = raw.chains[removal.chain].rules[removal.position].handle
        yield _message(
            _DELETE_RULE, family, *names, text(2, removal.chain), attribute(3, _long(handle))
        )
    for chain in change.filled:
        for rule in chain.rules:
            yield new_rule(family, raw.name, chain.name, raw_rules[rule])
    gone = {(removal.chain, removal.position) for removal in change.removals}
    before: dict[str, int] = {}
    for insertion in change.insertions:
        held = raw.chains[insertion.chain].rules if insertion.chain in raw.chains else ()
        staying = [r for place, r in enumerate(held) if (insertion.chain, place) not in gone]
        place = insertion.position - before.get(insertion.chain, 0)
        before[insertion.chain] = before.get(insertion.chain, 0) + 1
        behind = staying[place].handle if place < len(staying) else None
        yield new_rule(family, raw.name, insertion.chain, raw_rules[insertion.rule], behind)
    for name in change.deleted:
        yield _message(_DELETE_CHAIN, family, *names, text(3, name))


def restored(snapshot: Snapshot, before: Snapshot) -> list[Message]:
    """The messages that put back what was ours at an earlier snapshot, as it was told then."""
    found: list[Message] = []
    for name in BUILT_IN:
        found += _ours_restored(name, snapshot.ours(name), before.ours(name))
        for family in Family:
            found += _left_restored(name, family, snapshot, before)
    return found


def _ours_restored(name: str, raw: RawTable | None, before: RawTable | None) -> Iterator[Message]:
    if _without_handles(raw) == _without_handles(before):
        return
    title = TABLES[name]
    if before is None:
        yield _message(_DELETE_TABLE, INET, text(1, title))
        return
    standing = {
        chain.name
        for chain in (raw.chains.values() if raw else ())
        if chain.name in before.chains and before.chains[chain.name].hook == chain.hook
    }
    yield from _remade(INET, title, raw, set(), standing)
    for old in raw.sets if raw else ():
        if not is_anonymous(old):
            yield delete_set(title, old.name)
    for chain in before.chains.values():
        if chain.name not in standing:
            yield new_chain(INET, title, chain.name, chain.hook, chain.policy or "ACCEPT")
    for old in before.sets:
        yield _message(NEW_SET, INET, text(1, title), number(_ID, 1), old.made, flags=CREATE)
        for elements in old.elements:
            names = (text(1, title), text(2, old.name))
            yield _message(NEW_ELEMENTS, INET, *names, nested(3, elements), flags=CREATE)
    for chain in before.chains.values():
        for rule in chain.rules:
            yield new_rule(INET, title, chain.name, rule)


def _without_handles(raw: RawTable | None) -> object:
    if raw is None:
        return None
    chains = [
        (chain.name, chain.hook, chain.policy, [(r.expressions, r.userdata) for r in chain.rules])
        for chain in raw.chains.values()
    ]
    return chains, raw.sets, raw.dormant


def _left_restored(
    name: str, family: Family, snapshot: Snapshot, before: Snapshot
) -> Iterator[Message]:
    raw, old = snapshot.left(family, name), before.left(family, name)
    here, then = left_view(snapshot, name, family), left_view(before, name, family)
    if not (raw and old and here and then):
        return
    from ...rules.ownership import ours_in
    from ...rules.reconcile import edit

    change = edit(here.table, ours_in(then.table))
    if change:
        raw_rules = {
            rule: replace(old.chains[chain.name].rules[place], protocol=_protocol(rule))
            for chain in then.table.chains
            for place, rule in enumerate(chain.rules)
        }
        yield from _left_changed(raw, change, raw_rules)


def _protocol(rule: Rule) -> int:
    names = [match.name for match in rule.matches if isinstance(match, Protocol)]
    return PROTOCOLS.get(names[0], 0) if names else 0


# Messages.


def _message(kind: int, family: int, *parts: bytes, flags: int = 0) -> Message:
    return Message(SUBSYSTEM | kind, body(family, *parts), flags)


def _long(value: int) -> bytes:
    return value.to_bytes(8, "big")


def new_table(family: int, name: str) -> Message:
    """A table, awake; one that is there stays."""
    return _message(_NEW_TABLE, family, text(1, name), number(2, 0), flags=CREATE)


def new_chain(
    family: int, table: str, name: str, hook: Hook | None, policy: str = "ACCEPT"
) -> Message:
    """A chain, with a hook a base chain."""
    parts = [text(1, table), text(3, name)]
    if hook:
        parts += [
            nested(4, number(1, hook.number), number(2, hook.priority)),
            number(5, _POLICIES[policy]),
            text(7, hook.kind),
        ]
    return _message(_NEW_CHAIN, family, *parts, flags=CREATE)


_ID = 10  # NFTA_SET_ID: the kernel wants one, and we name sets by their names
_IPV4_ADDRESS, _IPV6_ADDRESS = 7, 8  # types of nft, which knows them by numbers
_BIG_ENDIAN = b"\x00\x04\x02\x00\x00\x00"  # NFTNL_UDATA_SET_KEYBYTEORDER
_SET_COMMENT = 7  # NFTNL_UDATA_SET_COMMENT
_OPEN_END = b"\x01\x04\x01\x00\x00\x00"  # NFTNL_UDATA_SET_ELEM_FLAGS: it has no end
_ELEMENTS_A_MESSAGE = 1000


def new_set(table: str, wanted: DestinationSet) -> Iterator[Message]:
    """A set of our table, as the program nft makes one, and what is in it."""
    kind, size = (_IPV4_ADDRESS, 4) if wanted.version == 4 else (_IPV6_ADDRESS, 16)
    comment = wanted.comment.encode()[:LONGEST_COMMENT] + b"\0"
    userdata = _BIG_ENDIAN + bytes([_SET_COMMENT, len(comment)]) + comment
    names = text(1, table), text(2, wanted.title)
    yield _message(
        *(NEW_SET, INET, *names, number(3, INTERVAL), number(4, kind), number(5, size)),
        *(number(_ID, 1), attribute(13, userdata)),
        flags=CREATE,
    )
    elements = list(_elements(wanted, size))
    for begin in range(0, len(elements), _ELEMENTS_A_MESSAGE):
        some = nested(3, *elements[begin : begin + _ELEMENTS_A_MESSAGE])
        yield _message(NEW_ELEMENTS, INET, *names, some, flags=CREATE)


def delete_set(table: str, name: str) -> Message:
    """The end of a set of our table, for which no rule may ask any more."""
    return _message(DELETE_SET, INET, text(1, table), text(2, name))


def _elements(wanted: DestinationSet, size: int) -> Iterator[bytes]:
    """Where each of a set's ranges begins, and where it has ended."""
    zero = nested(1, attribute(1, bytes(size)))
    begins = nested(1, zero)[:-size]
    ended = nested(1, number(3, 1), zero)[:-size]  # NFT_SET_ELEM_INTERVAL_END
    if wanted.ranges and wanted.ranges[0][0]:
        yield ended + bytes(size)
    top = (1 << 8 * size) - 1
    for first, last in wanted.ranges:
        if last == top:
            key = nested(1, attribute(1, first.to_bytes(size, "big")))
            yield nested(1, key, attribute(6, _OPEN_END))
        else:
            yield begins + first.to_bytes(size, "big")
            yield ended + (last + 1).to_bytes(size, "big")


def new_rule(
    family: int, table: str, chain: str, rule: RawRule, before: int | None = None
) -> Message:
    """A rule at the end of a chain, or before the one with a handle."""
    parts = [text(1, table), text(2, chain), nested(4, rule.expressions)]
    if rule.userdata:
        parts.append(attribute(7, rule.userdata))
    if rule.protocol:
        parts.append(nested(5, number(1, rule.protocol), number(2, 0)))
    if before is not None:
        parts.append(attribute(6, _long(before)))
    return _message(
        _NEW_RULE, family, *parts, flags=CREATE if before is not None else CREATE | APPEND
    )
