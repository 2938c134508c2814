"""What rules need of a node, and whether the node has it. Nothing is written to find out."""

from collections.abc import Iterator, Sequence

from ..errors import NodeCannot
from ..frozen import Frozen, replace
from ..rules.matches import Destination, InInterface, OutInterface, Protocol, Source
from ..rules.model import Family, Ruleset
from ..rulesets.native import for_nf_tables
from .backend import Backend, Task
from .legacy.sockopt import extension_errno, lacks_x_tables, table_errno
from .nftables.trials import refusal_of, trials_of
from .routing.policy_routes import Routes
from .system.capabilities import missing_capabilities
from .system.modules import State, may_load, modules_directory, state_on_disk
from .system.namespace import asked_in_a_new_one
from .system.proc import read
from .system.refusal import NO_SUCH_TABLE, KernelRefused

_HIGHEST_REVISION = 4
# libxtables puts the one in for the other.
_ALIASES = {"state": "conntrack"}


class Need(Frozen):
    """One thing that rules need: of which kind, how it stands, and what to do if it is not there,
    or what loads it. `revision` is the highest that the kernel has of a match or target.
    """

    kind: str
    name: str
    family: Family | None
    state: State
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
    backend = task.backend
    missing = missing_capabilities(backend.capabilities)
    remedy = (
        "give the init container securityContext.capabilities."
        f"add: [{', '.join(backend.capabilities)}], a debug container "
        "--profile=netadmin, or by hand use sudo"
    )
    if missing == ("NET_RAW",):
        remedy += ", or take --backend nft, which does without"
    state = State.MISSING if missing else State.THERE
    yield Need("capability", " and ".join(missing or backend.capabilities), None, state, remedy)
    if backend is Backend.NFT:
        yield from () if missing else _nft_needs(task.rulesets)
        return
    yield _libraries()
    for ruleset in () if missing else task.rulesets:
        yield from _legacy_needs(ruleset, write)


def _nft_needs(rulesets: Sequence[Ruleset]) -> Iterator[Need]:
    """What is tried in a namespace of its own; where none may be made, in this one, in
    transactions that end before they are done."""
    trials = list(trials_of(rulesets))
    numbers = asked_in_a_new_one(lambda: [refusal_of(trial) for trial in trials])
    for place, trial in enumerate(trials):
        number = numbers[place] if numbers else refusal_of(trial)
        state = State.MISSING if number in NO_SUCH_TABLE else State.NOT_KNOWN
        remedy = f"on the node, modprobe {' '.join(trial.modules)}"
        yield Need(trial.kind, trial.name, None, state if number else State.THERE, remedy)


def _legacy_needs(ruleset: Ruleset, write: bool) -> Iterator[Need]:
    family = ruleset.family
    for table in ruleset.tables:
        yield _table(family, table.name, write)
    unasked = lacks_x_tables(family)
    for kind, name in sorted(_extensions(ruleset)):
        module = f"{'ipt' if family is Family.V4 else 'ip6t'}_{name}"  # an alias that it has
        remedy = f"on the node, modprobe {module}"
        if unasked:
            yield _on_disk(Need(kind, name, family, State.NOT_KNOWN, remedy), module)
            continue
        revision = highest_revision(family, kind, name)
        state = State.MISSING if revision is None else State.THERE
        yield Need(kind, name, family, state, remedy, revision)


def routing_needs(ruleset: Ruleset) -> Iterator[Need]:
    """What a ruleset needs besides tables."""
    if ruleset.routing.policy_route:
        try:
            Routes(ruleset.family).policy_routes()
            state = State.THERE
        except KernelRefused:
            state = State.MISSING
        remedy = "a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES"
        yield Need("policy routing", "by fwmark", ruleset.family, state, remedy)


def tasks_for(rulesets: Sequence[Ruleset], backend: Backend) -> list[Task]:
    """The tasks of a backend for rulesets as legacy tables have them."""
    if backend is Backend.NFT:
        return [Task(tuple(map(for_nf_tables, rulesets)), backend)]
    return [Task((ruleset,), backend) for ruleset in rulesets]


def missing_needs(rulesets: Sequence[Ruleset], backend: Backend) -> list[Need]:
    """What the rulesets need of a backend and what can't come, what both families need once."""
    tasks = tasks_for(rulesets, backend)
    all_of_it = (need for task in tasks for need in needs(task, write=False))
    return list(dict.fromkeys(need for need in all_of_it if need.state is State.MISSING))


def _libraries() -> Need:
    kind, name = "libraries", "of iptables"
    try:
        Backend.LEGACY.load()
    except NodeCannot as error:
        return Need(kind, name, None, State.MISSING, str(error))
    return Need(kind, name, None, State.THERE, "")


def _table(family: Family, name: str, write: bool) -> Need:
    prefix = "ip" if family is Family.V4 else "ip6"
    module = f"{prefix}table_{name}"
    remedy = (
        f"on the node, modprobe {module}; a kernel without it has no legacy iptables, "
        "but perhaps takes --backend nft"
    )
    need = Need("table", name, family, State.MISSING, remedy)
    if lacks_x_tables(family):
        # The kernel never loads by itself what all of the family's tables rest on. Libiptc's side
        # does, before it reads or writes one; so if we are to write, that was tried.
        on_disk = _on_disk(need, module)
        if write or on_disk.state is not State.NOT_LOADED or not may_load():
            return need
        return replace(on_disk, remedy=f"modprobe, which applying runs, loads {prefix}_tables")
    number = table_errno(family, name, write)
    if number in NO_SUCH_TABLE:
        return need
    if number == 0 or _in_kernel(module):
        return replace(need, state=State.THERE)
    return _on_disk(need, module)


def _on_disk(need: Need, module: str) -> Need:
    """What the kernel can't be asked for, as it stands by what the directory of modules lists."""
    state = state_on_disk(module, modules_directory())
    if state is State.NOT_LOADED:
        return replace(need, state=state, remedy=f"the kernel loads {module} when it is asked for")
    return replace(need, state=state)


def _in_kernel(module: str) -> bool:
    """Whether the module of a table is in this kernel now, as far as is known."""
    symbol = f" {module}_init\n" if module.endswith("_nat") else f" {module}_table_init\n"
    try:
        text = read("/proc/kallsyms")
    except OSError:
        return False
    return symbol in text.replace("\t", "\n")


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


def highest_revision(family: Family, kind: str, name: str) -> int | None:
    """The highest revision of a match or target that the kernel has, None where it has none;
    asking makes the kernel load its module."""

    def there(revision: int) -> bool:
        return extension_errno(family, kind, name, revision) == 0

    return next(filter(there, range(_HIGHEST_REVISION, -1, -1)), None)
