"""Finds the flags whose rules differ least from those that are there.

It begins with what most rules say about each setting, builds the rules of these flags, and then
tries, setting by setting, what other rules say, until nothing comes nearer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias

from ...config.config import EVERYTHING, OLD_RULES, Config
from ...config.read import read_config
from ...errors import BadCall
from ...frozen import Frozen, replace
from ...rules.matches import (
    Destination,
    DestinationPort,
    InInterface,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Source,
)
from ...rules.model import Family, Rule
from ...rules.networks import Network, network_around, read_address
from .difference import Difference, Differences, Kind, Present, distance
from .held import Form, Held, wanted_rulesets
from .witnesses import EVERYWHERE, Choice, choices, per_family
from .words import words_of

_MOST_ITEMS, _FEW_ITEMS = 30, 5
"""How many items of lists it tries to leave out."""
_HOPELESS = 3
"""A rule set that begins so many times farther away is not tried."""
_LARGE = 2000
"""So many rules take a tenth of a second to build and compare, so less is tried."""
_Draft: TypeAlias = Mapping[str, Any]


class Inferred(Frozen):
    """Flags, and how what is there differs from the rules that they make.

    `words` are the words behind the program's name, and `config` what they mean.
    """

    words: tuple[str, ...]
    config: Config
    form: Form
    differences: Differences

    @property
    def exact(self) -> bool:
        """Whether these flags make just these rules, in this order."""
        return not self.differences


class _Rated(Frozen):
    """A draft, and how good it is: the less the better. The distance comes first, then how many
    comments differ, then what is unexplained, then the length of the command line."""

    key: tuple[float, int, int, int]
    form: Form
    draft: _Draft

    @property
    def distance(self) -> float:
        """How far its rules are from those that are there."""
        return self.key[0]

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs, comments included."""
        return not any(self.key[:2])


class _NoMachine:
    """A machine without users, groups and files: no flag may depend on them."""

    def user_id(self, name: str) -> int | None:
        return None

    def group_id(self, name: str) -> int | None:
        return None

    def read_text(self, path: str) -> str:
        raise FileNotFoundError(path)


def infer(held: Held) -> Inferred | None:
    """The flags that make the rules that are held, or those whose rules differ least.

    None if there is no rule of ours. Of flags that are equally near, the plainer ones.
    """
    present = Present(held.normalized())
    if not any(True for _ in present.ours()):
        return None
    searches: list[_Search] = []
    for ruleset, form in product(("current", OLD_RULES), held.forms):
        if form is not Form.ISTIO_NATIVE or ruleset != OLD_RULES:
            searches.append(_Search(present, ruleset, form))
            if searches[-1].start.is_exact:
                return _inferred(present, searches[-1].start)
    searches.sort(key=lambda each: each.start.key)
    best = searches[0].nearest()
    for search in searches[1:]:
        if best.is_exact or search.start.distance > _HOPELESS * (best.distance + 1):
            break
        best = min(best, search.nearest(), key=lambda each: each.key)
    return _inferred(present, best)


class _Search:
    """The search for the nearest flags of one rule set and form."""

    def __init__(self, present: Present, ruleset: str, form: Form) -> None:
        self._present = present
        self._form = form
        start: dict[str, Any] = {"ruleset": ruleset}
        self._is_large = sum(1 for _ in present.ours()) > _LARGE
        self._choices: list[Sequence[Choice]] = []
        for some in choices(present, ruleset):
            accepted = [choice for choice in some if _is_accepted({"ruleset": ruleset, **choice})]
            if accepted:
                self._choices.append(accepted)
                start.update(accepted[0])
        self.start = self._rated(start)
        """The flags of which the most rules say the same."""

    def nearest(self) -> _Rated:
        """The nearest flags."""
        best = self.start
        if not best.is_exact and not self._is_large:
            others = choices(self._present.without_negations(), best.draft["ruleset"])
            for some in (*self._choices, *others):
                best = self._best(best, some)
        while not best.is_exact:
            before = best
            for each in (*self._choices, self._with_fewer_items(best)):
                best = self._best(best, each)
            if best.key == before.key or self._is_large:
                break
        return best

    def _best(self, best: _Rated, some: Iterable[Choice]) -> _Rated:
        for choice in some:
            draft = {**best.draft, **choice}
            if draft != best.draft:
                rated = self._rated(draft)
                if rated.key < best.key and _is_accepted(draft):
                    best = rated
        return best

    def _rated(self, draft: _Draft) -> _Rated:
        config = _config_of(draft)
        rulesets = wanted_rulesets(config, self._form)
        commented = None
        if self._present.is_commented:
            commented = wanted_rulesets(replace(config, comments=True), self._form)
        found = self._present.differences(rulesets, commented)
        away = round(distance(found), 3)
        comments = sum(each.kind is Kind.OTHER_COMMENT for each in found)
        key = (away, comments, self._present.unexplained(rulesets), _length(config))
        return _Rated(key, self._form, draft)

    def _with_fewer_items(self, best: _Rated) -> Iterator[Choice]:
        """The lists of a draft without one of their items; first those of which a rule differs."""
        seen: set[object] = set()
        rulesets = wanted_rulesets(_config_of(best.draft), self._form)
        for each in self._present.differences(rulesets):
            if isinstance(each, Difference) and each.kind is not Kind.ADDED and each.wanted:
                seen.update(_values(each.wanted))
        items = [
            (item not in seen, name, number)
            for name, items in best.draft.items()
            if isinstance(items, tuple)
            for number, item in enumerate(items)
        ]
        items.sort(key=lambda each: each[0])
        for _, name, number in items[: _FEW_ITEMS if self._is_large else _MOST_ITEMS]:
            whole = best.draft[name]
            yield {name: (*whole[:number], *whole[number + 1 :])}


def _read(words: Sequence[str]) -> Config:
    config = read_config(words, {}, _NoMachine())
    return replace(config, ipv6=bool(config.ipv6))


_BASE = _read(())
_SOME_SERVER = network_around(read_address("::"))
"""Stands for a DNS server of a family whose rules are not there."""


def _is_accepted(draft: _Draft) -> bool:
    """Whether the program takes such flags: a damaged rule may name what no flag can."""
    try:
        _read(words_of(_config_of(draft)))
    except BadCall:
        return False
    return True


_USUAL = {"15001", "15006", "1337"}


def _length(config: Config) -> int:
    """How long a command line is, without the usual values: plain flags are short."""
    return sum(len(word) + 1 for word in words_of(config) if word not in _USUAL)


def _values(rule: Rule) -> Iterator[object]:
    """What a rule asks for, as it stands in the lists of flags."""
    for match in rule.matches:
        match match:
            case Source(network) | Destination(network):
                yield network
            case DestinationPort(_, port):
                yield port
            case OwnerUid(number) | OwnerGid(number):
                yield number
            case InInterface(name) | OutInterface(name):
                yield name


def _config_of(draft: _Draft) -> Config:
    """The Config of a draft."""
    names = set(Config.__match_args__)
    settings: dict[str, Any] = {name: value for name, value in draft.items() if name in names}
    for name in ("inbound_ports", "owner_groups"):
        if settings.get(name, ()) is None:
            settings[name] = EVERYTHING
    uids = settings.get("proxy_uids") or _BASE.proxy_uids
    settings.update(proxy_uids=uids, proxy_gids=settings.get("proxy_gids") or uids)
    if settings.get("owner_groups") not in (None, EVERYTHING):
        settings["owner_groups_excluded"] = ()
    if settings.get("ipv4_loopback", 0) is None:
        del settings["ipv4_loopback"]

    def both(name: str) -> tuple[Network, ...]:
        return tuple(n for family in Family for n in draft.get(per_family(name, family), ()))

    captured = both("outbound_networks")
    settings["outbound_excluded_networks"] = both("outbound_excluded_networks")
    settings["outbound_networks"] = EVERYTHING if draft.get("everything") else captured
    if draft.get("everything"):
        settings["captures_loopback"] = False
    if settings.get("redirect_dns") and not settings.get("capture_all_dns"):
        everywhere = EVERYWHERE.values()
        servers = [n for n in both("dns_servers") if n not in everywhere]
        settings["dns_servers"] = tuple(servers) or (_SOME_SERVER,)
    if draft["ruleset"] == OLD_RULES:
        settings["captures_loopback"] = False
    return replace(_BASE, **settings)


def _inferred(present: Present, best: _Rated) -> Inferred:
    config, form = _config_of(best.draft), best.form
    backend = "auto" if form is Form.IPTABLES else "nft"
    words = words_of(replace(config, backend=backend, comments=present.is_commented))
    read = _read(words)
    plain = wanted_rulesets(replace(read, comments=False), form)
    return Inferred(words, read, form, present.differences(plain, wanted_rulesets(read, form)))
