"""What rules need of a node, and whether it is there; nothing is written to find out."""

from collections.abc import Iterator, Sequence

from ..errors import NodeCannot
from ..frozen import frozen
from ..rules.matches import Destination, InInterface, OutInterface, Protocol, Source
from ..rules.model import BUILT_IN, Family, Ruleset
from .backend import Backend, Task
from .legacy.sockopt import extension_errno, lacks_x_tables, table_errno
from .nftables import nfnetlink
from .routing.policy_routes import Routes
from .system.capabilities import missing_capabilities
from .system.proc import read
from .system.refusal import NO_SUCH_TABLE, KernelRefused

_HIGHEST_REVISION = 4
# libxtables puts the one in for the other.
_ALIASES = {"state": "conntrack"}
_MODULES = {"tcp": "xt_tcpudp", "udp": "xt_tcpudp", "REJECT": "ip6t_REJECT"}


@frozen
class Need:
    """One thing that rules need: of which kind, whether it is there, and what to do if not.

    Where `there` is None, it can't be told without bringing it into being. `revision` is the
    highest that the kernel has of a match or target.
    """

    kind: str
    name: str
    family: Family | None
    there: bool | None
    remedy: str
    revision: int | None = None

    def __str__(self) -> str:
        family = f" for {self.family.title}" if self.family else ""
        return f"missing {self.kind} {self.name}{family}: {self.remedy}"


def needs(task: Task, write: bool) -> Iterator[Need]:
    """All that a task needs, but for the node's user namespace and its policy routing.

    Unless we are to `write`, no table is brought into being by asking. Without the capabilities,
    the rest can't be found out, and is left out.
    """
    backend, family = task.backend, task.ruleset.family
    missing = [name for name in backend.capabilities if name in missing_capabilities()]
    remedy = (
        "give the init container securityContext.capabilities."
        f"add: [{', '.join(backend.capabilities)}], or by hand use sudo"
    )
    if missing == ["NET_RAW"]:
        remedy += ", or take --backend nft, which does without"
    yield Need(
        "capability", " and ".join(missing or backend.capabilities), None, not missing, remedy
    )
    yield _software(backend)
    if missing:
        return
    for table in task.ruleset.tables:
        yield _table(backend, family, table.name, write)
    unasked = backend is Backend.LEGACY and lacks_x_tables(family)
    for kind, name in sorted(_extensions(task.ruleset)):
        revision = highest_revision(backend, family, kind, name)
        there = None if unasked else revision is not None
        module = _MODULES.get(name, f"xt_{name}")
        remedy = f"on the node, modprobe {module}"
        yield Need(kind, name, family, there, remedy, revision)


def routing_needs(ruleset: Ruleset) -> Iterator[Need]:
    """What a ruleset needs besides tables."""
    if ruleset.routing.policy_route:
        try:
            Routes(ruleset.family).policy_routes()
            there = True
        except KernelRefused:
            there = False
        remedy = "a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES"
        yield Need("policy routing", "by fwmark", ruleset.family, there, remedy)


def neither_works(rulesets: Sequence[Ruleset], lacking: str) -> NodeCannot | None:
    """The error where `lacking` rules out legacy, if nft can't serve either; else None."""
    missing = [
        f"backend nft: {need}"
        for ruleset in rulesets
        for need in needs(Task(ruleset, Backend.NFT), write=False)
        if need.there is False
    ]
    if not missing:
        return None
    lines = (f"backend legacy: {lacking}", *dict.fromkeys(missing))
    return NodeCannot("\n".join(("neither backend works here; see proxy-init check", *lines)))


def _software(backend: Backend) -> Need:
    kind, name = (
        ("libraries", "of iptables")
        if backend is Backend.LEGACY
        else ("programs", "iptables-nft-save and its family")
    )
    try:
        backend.load()
    except NodeCannot as error:
        return Need(kind, name, None, False, str(error))
    return Need(kind, name, None, True, "")


def _table(backend: Backend, family: Family, name: str, write: bool) -> Need:
    if backend is Backend.NFT:
        remedy = "on the node, modprobe nf_tables nft_compat nft_chain_nat"
        return Need("table", name, family, _nft_takes(family, name), remedy)
    prefix = "ip" if family is Family.V4 else "ip6"
    remedy = (
        f"on the node, modprobe {prefix}table_{name}; a kernel without it has no legacy iptables, "
        "but perhaps takes --backend nft"
    )
    there: bool | None = not lacks_x_tables(family)
    if there:
        number = table_errno(family, name, write)
        there = number not in NO_SUCH_TABLE and (number == 0 or _in_kernel(f"{prefix}table_{name}"))
    return Need("table", name, family, there, remedy)


def _in_kernel(module: str) -> bool | None:
    """Whether a table's module is in this kernel now; the kernel may load one that is not."""
    symbol = f" {module}_init\n" if module.endswith("_nat") else f" {module}_table_init\n"
    try:
        text = read("/proc/kallsyms")
    except OSError:
        return None
    return symbol in text.replace("\t", "\n") or None


def _nft_takes(family: Family, table: str) -> bool:
    try:
        for chain in BUILT_IN[table]:
            nfnetlink.try_chain(family, table, chain)
    except OSError:
        return False
    return True


def _extensions(ruleset: Ruleset) -> set[tuple[str, str]]:
    header = Source | Destination | InInterface | OutInterface | Protocol
    needed: set[tuple[str, str]] = set()
    for rule in ruleset.rules:
        needed.update(
            ("match", _ALIASES.get(m.name, m.name))
            for m in rule.matches
            if not isinstance(m, header)
        )
        if rule.target.options():
            needed.add(("target", rule.target.name))
    return needed


def highest_revision(backend: Backend, family: Family, kind: str, name: str) -> int | None:
    """The highest revision of a match or target that the kernel has, None where it has none;
    asking makes the kernel load its module."""

    def there(revision: int) -> bool:
        if backend is Backend.NFT:
            return nfnetlink.has_revision(family, kind, name, revision)
        return extension_errno(family, kind, name, revision) == 0

    return next(filter(there, range(_HIGHEST_REVISION, -1, -1)), None)
