"""A transaction that is larger than this process may send at once, in several.

Its sets are filled first, when no rule asks for them yet, and then the rules change in one
transaction as ever. A set that rules ask for already is replaced in two turns: by one of another
name, and that by one of its own name. Pure. Whoever lacks CAP_NET_ADMIN over the machine may send
no more at once than net.core.wmem_max, mostly 208 KiB (man 7 socket, SO_SNDBUFFORCE).
"""

from __future__ import annotations

from ...frozen import replace
from ..system.netlink import Message, attributes, text, to_text
from .batches import DELETE_SET, NEW_ELEMENTS, NEW_SET, delete_set, new_table
from .names import INET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Set
    from typing import TypeAlias

    from .snapshot import RawTable, Snapshot

    SetName: TypeAlias = tuple[str, str]
    """The names of a table and of a set in it."""

_ASKED, _MADE = 1, 2  # a set's name in an expression, NFTA_LOOKUP_SET, and in a message


def taken_names(messages: Sequence[Message], snapshot: Snapshot) -> frozenset[SetName]:
    """The sets that the messages make though rules ask for others of their names."""
    made = {_set_of(message) for message in messages if _kind(message) == NEW_SET}
    return frozenset(
        (table.name, title)
        for table in _ours(snapshot)
        for name, title in made
        if name == table.name
        and any(
            text(_ASKED, title) in rule.expressions
            for chain in table.chains.values()
            for rule in chain.rules
        )
    )


def in_pieces(
    messages: Sequence[Message], snapshot: Snapshot, taken: Set[SetName]
) -> Iterator[list[Message]]:
    """Transactions that come to the same as `messages`, except that the sets `taken` have the
    names that `_other_name` gives. The kernel's generation grows by one with each."""
    for name in sorted(taken):
        messages = [_under_other_name(message, name) for message in messages]
    there = {(table.name, each.name) for table in _ours(snapshot) for each in table.sets}
    rest: list[Message] = []
    filled: set[SetName] = set()
    for message in messages:
        if _kind(message) == NEW_SET:
            table, title = _set_of(message)
            filled.add((table, title))
            # What is there under the name is the beginning of a run that was killed.
            old = [delete_set(table, title)] if (table, title) in there else []
            yield [new_table(INET, table), *old, message]
        elif _kind(message) == NEW_ELEMENTS:
            yield [message]
        else:
            rest.append(message)
    yield [m for m in rest if not (_kind(m) == DELETE_SET and _set_of(m) in filled)]


def _ours(snapshot: Snapshot) -> Iterator[RawTable]:
    return (table for table in snapshot.tables if table.family == INET)


def _kind(message: Message) -> int:
    return message.kind & 0xFF


def _set_of(message: Message) -> SetName:
    parts = attributes(message.body[4:])
    return to_text(parts[1]), to_text(parts[2])


def _under_other_name(message: Message, name: SetName) -> Message:
    """The message with another name of a set, whether it makes, fills or asks for it."""
    table, title = name
    if attributes(message.body[4:]).get(1) != table.encode() + b"\0":
        return message
    body = message.body
    if _kind(message) != DELETE_SET:
        for kind in (_ASKED, _MADE):
            body = body.replace(text(kind, title), text(kind, _other_name(title)))
    return replace(message, body=body)


def _other_name(title: str) -> str:
    """Another name of the same length, which changes no length of what is around it."""
    return title.upper()
