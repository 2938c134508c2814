"""The tables of nf_tables in this process's network namespace, both families' in one."""

from __future__ import annotations

import errno

from ...errors import ApplyFailed
from ...light import contextmanager, os, partial
from ...rules.inet_tables import name_in_model
from ...rules.model import BUILT_IN, Family, Ruleset
from ..system.netlink import (
    NETFILTER,
    Connection,
    Message,
    MessageRefused,
    attributes,
    connected,
    to_text,
)
from ..system.refusal import KernelRefused
from . import snapshot as reading
from .batches import Aim, changes, restored, transaction
from .codec import NUMBERS, reading_of
from .snapshot import Snapshot, left_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ...rules.ownership import Ours

MOST_TRIES = 100
"""How often all is read again because somebody changed something in between."""
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_GLOBAL = 1  # MEMBARRIER_CMD_GLOBAL, man 2 membarrier
_LONG_ENOUGH = 0.05
"""In seconds: no packet stays so long between two hooks."""
_TOO_MUCH = (
    "so many rules at once take CAP_NET_ADMIN outside of user namespaces, "
    "or on the node a larger net.core.wmem_max"
)
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_SET, _NEW_ELEMENTS = 0, 3, 6, 9, 12


def read(everything: bool = False) -> Snapshot:
    """Our tables and those of iptables-nft, or with `everything` all that packets of IP may meet.

    Raises KernelRefused.
    """
    with _connection() as connection:
        return reading.read(connection, everything)


def left_ours(snapshot: Snapshot, rulesets: Sequence[Ruleset]) -> dict[tuple[Family, str], Ours]:
    """What is ours in iptables-nft's tables, by family and table, where anything is."""
    found: dict[tuple[Family, str], Ours] = {}
    if not any(snapshot.left(each.family, name) for each in rulesets for name in BUILT_IN):
        return found
    from ...rules.ownership import ours_in

    for ruleset in rulesets:
        for name in BUILT_IN:
            view = left_view(snapshot, name, ruleset.family)
            ours = ours_in(view.table, ruleset.table(name)) if view else None
            if ours:
                found[ruleset.family, name] = ours
    return found


def holds_ours(rulesets: Sequence[Ruleset]) -> bool:
    """Whether anything in nf_tables is ours. Raises KernelRefused."""
    snapshot = read()
    return any(map(snapshot.ours, BUILT_IN)) or bool(left_ours(snapshot, rulesets))


def reach(aims: Sequence[Aim]) -> None:
    """Bring about one aim after the other. Raises KernelRefused or ApplyFailed.

    A packet that has passed one hook by the old rules may meet the next by the new ones. So before
    the next aim, all packets are let go that may have begun under the rules before.
    """
    if not aims:
        return
    wrote = False
    with _connection() as connection:
        for aim in aims:
            if wrote:
                _let_packets_go()
            wrote = _committed(connection, partial(_towards, aim)) or wrote


def _towards(aim: Aim, now: Snapshot) -> list[Message]:
    return changes(now, aim)


def put_back(before: Snapshot) -> None:
    """Put back what was ours at an earlier snapshot. Raises KernelRefused or ApplyFailed."""
    with _connection() as connection:
        _committed(connection, lambda now: restored(now, before))


def _committed(connection: Connection, plan: Callable[[Snapshot], list[Message]]) -> bool:
    """Whether there was anything to do."""
    for _ in range(MOST_TRIES):
        now = reading.read(connection)
        messages = plan(now)
        if not messages:
            return False
        try:
            if _told(connection, messages, now):
                return True
        except MessageRefused as refused:
            # The kernel's word for a generation that has passed.
            if refused.errno != errno.ERESTART:
                raise
    raise ApplyFailed(
        f"nf_tables were changed by another program {MOST_TRIES} times while we read them; "
        "end that program"
    )


def _told(connection: Connection, messages: list[Message], now: Snapshot) -> bool:
    """Whether all is done; not so if sets have other names than they shall have."""
    try:
        _tell(connection, messages, now.generation)
        return True
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
    from .pieces import in_pieces, taken_names

    taken = taken_names(messages, now)
    for number, piece in enumerate(in_pieces(messages, now, taken)):
        _tell(connection, piece, now.generation + number)
    return not taken


def _tell(connection: Connection, messages: list[Message], generation: int) -> None:
    batch = transaction(messages, generation)
    try:
        connection.tell(batch)
    except MessageRefused as refused:
        if refused.errno != errno.ERESTART:
            what = _described(batch[refused.place])
            raise KernelRefused(what, refused.errno or errno.EIO) from refused
        raise


def _described(message: Message) -> str:
    """What a message was about."""
    kind, parts = message.kind & 0xFF, attributes(message.body[4:])
    if kind not in (_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_SET, _NEW_ELEMENTS):
        return "nf_tables"
    words = f"table {reading.TITLES[message.body[0]]} {to_text(parts[1])}"
    if kind == _NEW_CHAIN:
        words += f", chain {to_text(parts[3])}"
    if kind == _NEW_RULE:
        from ...rules.iptables_save import rule_text

        families = {number: family for family, number in NUMBERS.items()}
        rule = reading_of(parts[4], b"", families.get(message.body[0]), name_in_model).rule
        words += f", chain {to_text(parts[2])}, rule{rule_text(rule)}"
    return words


def _let_packets_go() -> None:
    """Wait until every packet has left netfilter that was in it: an RCU grace period."""
    import time

    from ..system.c_types import ctypes

    number = _MEMBARRIER.get(os.uname().machine, -1)
    if ctypes.CDLL(None).syscall(number, _GLOBAL, 0, 0):
        time.sleep(_LONG_ENOUGH)  # not there, or forbidden


@contextmanager
def _connection() -> Iterator[Connection]:
    try:
        with connected(NETFILTER) as connection:
            yield connection
    except KernelRefused:
        raise
    except OSError as error:
        remedy = _TOO_MUCH if error.errno == errno.EMSGSIZE else ""
        raise KernelRefused("nf_tables", error.errno or errno.EIO, remedy) from error
