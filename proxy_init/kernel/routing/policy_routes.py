"""The policy route of mode TPROXY, and the passthrough address, through netlink.

A policy route is ours if its routing table holds just our local route; so the rules and routes of
earlier runs, and of the programs that ours replaces, are found whatever mark and table they name.
rtnetlink.py is loaded only where there is something to ask.
"""

from __future__ import annotations

import _socket  # what socket is made of, which takes 4 ms to load
import errno
from fcntl import ioctl
from struct import pack

from ...frozen import Frozen
from ...light import contextmanager, suppress
from ...rules.model import Family, PolicyRoute, Routing
from ...rules.networks import read_address
from ..system.refusal import KernelRefused
from .addresses import has_ipv6, ipv6_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rtnetlink import Netlink

_PASSTHROUGH = read_address("::6")
_SIOCSIFADDR, _SIOCDIFADDR = 0x8916, 0x8936  # linux/sockios.h
_LOOPBACK_INDEX = 1  # of lo in every namespace, include/net/flow.h LOOPBACK_IFINDEX
_EVERY_BIT = 0xFFFFFFFF
_SYSTEM_TABLES = range(253, 256)  # linux/rtnetlink.h
_LOCAL, _HOST, _BOOT, _NOWHERE = 2, 254, 3, 255  # RTN_LOCAL, RT_SCOPE_HOST, RTPROT_BOOT, _NOWHERE
_TO_TABLE = 1  # FR_ACT_TO_TBL
_IPV6_METRIC = 1024  # of a route that is added without one, linux/ipv6_route.h IP6_RT_PRIO_USER


class Step(Frozen):
    """One change: a rule, a route or the address is added or deleted."""

    verb: str
    what: str
    policy_route: PolicyRoute | None = None
    priority: int = 0

    @property
    def undo(self) -> Step:
        """The step that takes this one back."""
        verb = "add" if self.verb == "delete" else "delete"
        return Step(verb, self.what, self.policy_route, self.priority)

    def __str__(self) -> str:
        if self.policy_route is None:
            return f"address {self.verb} ::6/128 dev lo"
        mark, table = self.policy_route.mark, self.policy_route.table
        if self.what == "rule":
            return f"rule {self.verb} fwmark {mark:#x} lookup {table}"
        return f"route {self.verb} local default dev lo table {table}"


class RoutingPlan(Frozen):
    """One family's steps: what is added before the tables are written, and deleted after."""

    family: Family
    added: tuple[Step, ...] = ()
    deleted: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted)

    def add(self) -> None:
        """Add the routes that rules will need. Raises KernelRefused, like the methods below."""
        for step in self.added:
            Routes(self.family).take(step)

    def delete(self) -> None:
        """Delete the routes that no rule needs any more."""
        for step in self.deleted:
            Routes(self.family).take(step)

    def take_back_added(self) -> None:
        """Undo the steps of `add` that were taken."""
        for step in reversed(self.added):
            Routes(self.family).take_back(step)

    def take_back_deleted(self) -> None:
        """Undo the steps of `delete` that were taken."""
        for step in reversed(self.deleted):
            Routes(self.family).take_back(step)


class Routes:
    """One family's policy rules and routes in this process's network namespace."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._number = _socket.AF_INET if family is Family.V4 else _socket.AF_INET6
        self._scope = _HOST if family is Family.V4 else 0
        self._metric = 0 if family is Family.V4 else _IPV6_METRIC

    def plan(self, wanted: Routing, known: PolicyRoute, look: bool) -> RoutingPlan:
        """The steps to the wanted routing.

        Rules and routes are looked for only if `look`, or if one is wanted. A rule for `known`, the
        flags' mark and table, is ours even if its route is gone: the kernel drops that with lo.
        Raises KernelRefused.
        """
        adding: list[Step] = []
        deleting: list[Step] = []
        if self._family is Family.V6:
            there = has_passthrough_address()
            if wanted.passthrough_address and not there:
                adding.append(Step("add", "address"))
            if there and not wanted.passthrough_address:
                deleting.append(Step("delete", "address"))
        if wanted.policy_route or (look and (self._family is Family.V4 or has_ipv6())):
            with self._netlink() as netlink:
                rules = list(self._rules(netlink))
                tables = self._tables(netlink)
            adding += _missing(wanted.policy_route, rules, tables)
            deleting += _superfluous(wanted.policy_route, known, rules, tables)
        return RoutingPlan(self._family, tuple(adding), tuple(deleting))

    def policy_routes(self) -> tuple[PolicyRoute, ...]:
        """The policy routes of our form in the kernel. Raises KernelRefused."""
        if self._family is Family.V6 and not has_ipv6():
            return ()
        with self._netlink() as netlink:
            rules, tables = list(self._rules(netlink)), self._tables(netlink)
        return tuple(
            PolicyRoute(rule.mark, rule.table)
            for rule in rules
            if rule.mark is not None and True in tables.get(rule.table, [])
        )

    def take(self, step: Step) -> None:
        """Take one step, unless the kernel is already as it would be. Raises KernelRefused."""
        try:
            self._ask_for(step)
        except KernelRefused as refused:
            if refused.number not in _ALREADY or not self._is_done(step):
                raise

    def _ask_for(self, step: Step) -> None:
        if step.policy_route is None:
            with _refusing(step):
                change_passthrough_address(step.verb)
            return
        fields = {"family": self._number}
        if step.what == "rule":
            fields |= {"action": _TO_TABLE}
            attributes = {
                "fwmark": step.policy_route.mark,
                "table": step.policy_route.table,
                "priority": step.priority,
            }
        else:
            fields |= {"type": _LOCAL, "scope": self._scope, "proto": _BOOT}
            attributes = {"oif": _LOOPBACK_INDEX, "table": step.policy_route.table}
        with self._netlink(step) as netlink:
            netlink.change(step.verb, step.what, fields, attributes)

    def take_back(self, step: Step) -> None:
        """Undo a step, if it was taken. Raises KernelRefused."""
        # Told to delete our route, which may never have come, IPv6 would delete another's.
        if not self._is_done(step.undo):
            self.take(step.undo)

    def _is_done(self, step: Step) -> bool:
        """Whether the kernel is as the step would leave it."""
        wanted = step.verb == "add"
        if step.policy_route is None:
            return has_passthrough_address() == wanted
        table = step.policy_route.table
        with self._netlink() as netlink:
            if step.what == "route":
                return (True in self._tables(netlink).get(table, [])) == wanted
            rule = _Rule(step.policy_route.mark, table, step.priority)
            return (rule in self._rules(netlink)) == wanted

    @contextmanager
    def _netlink(self, step: Step | None = None) -> Iterator[Netlink]:
        from .rtnetlink import connected

        with _refusing(step), connected() as netlink:
            yield netlink

    def _rules(self, netlink: Netlink) -> Iterator[_Rule]:
        for message in netlink.get("rule", self._number):
            table = message["table"]
            mark = message.get("fwmark")
            plain = (
                mark is not None
                and message.get("fwmask", _EVERY_BIT) == _EVERY_BIT
                and not message["src_len"]
                and not message["dst_len"]
                and not message["tos"]
                and not message["flags"]
                and message.get("suppress_prefixlen", _EVERY_BIT) == _EVERY_BIT
                # What the kernel tells of any rule with a mark has a name. All else narrows it.
                and not message["others"]
                and message["action"] == _TO_TABLE
            )
            yield _Rule(mark if plain else None, table, message.get("priority", 0))

    def _tables(self, netlink: Netlink) -> dict[int, list[bool]]:
        """By routing table: for each of its routes, whether it has the form of ours."""
        tables: dict[int, list[bool]] = {}
        for message in netlink.get("route", self._number):
            if message["flags"] & _CLONED:
                continue
            # As `ip route add` makes it too; the kernel would not delete one of another protocol or
            # scope when told of ours, and what is more than this we could not put back.
            ours = (
                message["type"] == _LOCAL
                and message["proto"] == _BOOT
                and message["scope"] == self._scope
                and message.get("priority", 0) == self._metric
                and not message.get("prefsrc")
                and not message.get("metrics")
                and message["dst_len"] == 0
                and message["src_len"] == 0
                and message.get("oif") == _LOOPBACK_INDEX
            )
            tables.setdefault(message["table"], []).append(ours)
        return tables


_ALREADY = (errno.EEXIST, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)  # there, or not there
_CLONED = 0x200  # RTM_F_CLONED: a cached route


class _Rule(Frozen):
    """A policy rule: its mark, if that is all it asks for, its table and its priority."""

    mark: int | None
    table: int
    priority: int


def _missing(
    wanted: PolicyRoute | None, rules: list[_Rule], tables: dict[int, list[bool]]
) -> Iterator[Step]:
    if wanted is None:
        return
    # The route first: a rule whose table is empty would do nothing, but a packet might pass.
    if True not in tables.get(wanted.table, []):
        yield Step("add", "route", wanted)
    if not any((rule.mark, rule.table) == (wanted.mark, wanted.table) for rule in rules):
        yield Step("add", "rule", wanted, _next_priority(rules))


def _next_priority(rules: list[_Rule]) -> int:
    """Right before the second rule, as `ip rule add` has it from the kernel
    (net/core/fib_rules.c, fib_default_rule_pref)."""
    priorities = sorted(rule.priority for rule in rules)
    return max(priorities[1] - 1, 0) if len(priorities) > 1 else 0


def _superfluous(
    wanted: PolicyRoute | None,
    known: PolicyRoute,
    rules: list[_Rule],
    tables: dict[int, list[bool]],
) -> Iterator[Step]:
    if wanted != known and known.table not in tables:
        for rule in rules:
            if (rule.mark, rule.table) == (known.mark, known.table):
                yield Step("delete", "rule", known, rule.priority)
    kept = False
    for table, routes in tables.items():
        if routes != [True] or table in _SYSTEM_TABLES:
            continue
        here = [rule for rule in rules if rule.table == table]
        for rule in here:
            if rule.mark is None:
                continue
            if not kept and wanted == PolicyRoute(rule.mark, table):
                kept = True  # of several copies one stays
                continue
            yield Step("delete", "rule", PolicyRoute(rule.mark, table), rule.priority)
        foreign = any(rule.mark is None for rule in here)
        if not foreign and (wanted is None or wanted.table != table):
            yield Step("delete", "route", PolicyRoute(0, table))


@contextmanager
def _refusing(step: Step | None) -> Iterator[None]:
    """Tell what the kernel refuses, which comes as OSError, as KernelRefused."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        what = str(step or "policy routing")
        if step and step.what == "route" and number == errno.EEXIST:
            what += " (it holds another default route: -r names the table to use)"
        raise KernelRefused(what, number, _remedy(number) if step else "") from error


def has_passthrough_address() -> bool:
    """Whether lo has the address ::6."""
    with suppress(OSError):
        return (_PASSTHROUGH, "lo") in ipv6_addresses()
    return False


def change_passthrough_address(verb: str) -> None:
    """Add ::6 to lo, or delete it; by ioctl, struct in6_ifreq of linux/ipv6.h, which takes no
    netlink. Raises OSError."""
    socket = _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = pack("=16sIi", _PASSTHROUGH.packed, _PASSTHROUGH.max_prefixlen, _LOOPBACK_INDEX)
        ioctl(socket.fileno(), _SIOCSIFADDR if verb == "add" else _SIOCDIFADDR, request)
    finally:
        socket.close()


def _remedy(number: int) -> str:
    if number == errno.ENETDOWN:
        return "lo is down: ip link set lo up"
    if number in (errno.EACCES, errno.ENODEV, errno.EINVAL):
        return "IPv6 is switched off on lo (sysctl net.ipv6.conf.lo.disable_ipv6): say --no-ipv6"
    return ""
