"""What rules say about the users and groups of the proxy, and about owner groups."""

from collections.abc import Iterator, Sequence
from functools import partial

from ....config.config import TPROXY_OUTBOUND_MARK
from ....rules.matches import OutInterface, OwnerGid, OwnerUid
from ....rules.model import Rule
from ....rules.targets import RETURN, ConntrackZone, Goto, SetMark
from .reading import TO_IN_REDIRECT, Choice, Reading, lists, ranked, values, without


def owners(reading: Reading) -> Iterator[Sequence[Choice]]:
    """-u, -g and the owner groups."""
    uids = lists(_owned(reading, OwnerUid))
    if reading.is_old:
        yield [{"proxy_uids": each} for each in uids]
        yield [{"proxy_gids": each} for each in lists(_owned(reading, OwnerGid))]
        return
    yield [{"proxy_uids": each} for each in uids]
    yield [{"owner_groups": each} for each in (*ranked(_groups_included(reading)), None)]
    # The groups that are left alone have rules like the last of each gid of the proxy.
    alone = [tuple(_exempt(rules, OwnerGid)) for rules in reading.output()]
    yield [
        {"proxy_gids": gids, "owner_groups_excluded": others}
        for gids in lists(_owned(reading, OwnerGid, with_exempt=False))
        for others in lists(
            rest for each in alone for rest in (without(each, gids), each[len(gids) :])
        )
    ] + [{"proxy_gids": each, "owner_groups_excluded": ()} for each in alone]


def _owned(
    reading: Reading, kind: type[OwnerUid | OwnerGid], with_exempt: bool = True
) -> Iterator[Sequence[int]]:
    """The owners in each run of rules that has one for each."""
    for rules in reading.output():
        if with_exempt or reading.is_old:
            yield _exempt(rules, kind)
        if not reading.is_old:
            yield values(rules, lambda rule: _of_owner(rule, kind, TO_IN_REDIRECT))
            others = values(rules, lambda rule: _of_others(rule, kind))
            if others:
                yield others
    if reading.is_old:
        return
    mark = SetMark(TPROXY_OUTBOUND_MARK)
    for rules in reading.rules("mangle", "OUTPUT"):
        marked = values(rules, lambda rule: _of_owner(rule, kind, mark))
        if marked:
            yield marked
    for rules in reading.rules("raw", "ISTIO_OUTPUT_DNS"):
        for zone in (ConntrackZone(1), ConntrackZone(2)):
            yield values(rules, partial(_of_owner, kind=kind, target=zone))


def _exempt(rules: Sequence[Rule], kind: type[OwnerUid | OwnerGid]) -> Sequence[int]:
    return values(
        rules,
        lambda rule: _of_owner(rule, kind, RETURN) if len(rule.matches) == 1 else None,
    )


def _of_owner(rule: Rule, kind: type[OwnerUid | OwnerGid], target: object) -> int | None:
    if rule.target != target:
        return None
    for match in rule.matches:
        if isinstance(match, kind) and not match.negated:
            return _number(match)
    return None


def _of_others(rule: Rule, kind: type[OwnerUid | OwnerGid]) -> int | None:
    if rule.target != RETURN or OutInterface("lo") not in rule.matches:
        return None
    for match in rule.matches:
        if isinstance(match, kind) and match.negated:
            return _number(match)
    return None


def _groups_included(reading: Reading) -> Iterator[tuple[int, ...]]:
    for rules in reading.output():
        led = []
        for rule in rules:
            groups = [match for match in rule.matches if isinstance(match, OwnerGid)]
            is_list = len(groups) > 1 or any(match.negated for match in groups)
            if rule.target == RETURN and is_list and len(groups) == len(rule.matches):
                yield tuple(match.gid for match in groups)
            match rule:
                case Rule((OwnerGid(gid, False),), Goto("ISTIO_OWNER_GROUPS")):
                    led.append(gid)
        if led:
            yield tuple(led)


def _number(match: OwnerUid | OwnerGid) -> int | None:
    """The uid or gid, if it is one: the largest number means none (man 2 setreuid)."""
    number = match.uid if isinstance(match, OwnerUid) else match.gid
    return number if number < 2**32 - 1 else None
