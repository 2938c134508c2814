"""Whose rules a network namespace holds, and the flags that made them. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..frozen import replace
from ..rules.inet_tables import TABLES
from ..rules.model import PREFIX, Family, Ruleset, Table
from .counters import Counts
from .diagnosis import mesh_of
from .inference.held import Form, Held, wanted_rulesets
from .inference.infer import Inferred, infer
from .kernel_rules import KernelTable, TableKind
from .pod_facts import FamilyRules


@dataclass(frozen=True)
class Found:
    """The tables of one kind that hold rules of ours, and the flags that made these."""

    kind: TableKind
    held: Held
    counts: Mapping[tuple[Family, str], Counts]
    inferred: Inferred

    @property
    def captured_families(self) -> tuple[Family, ...]:
        """The families whose traffic the flags capture."""
        config = self.inferred.config
        both = config.ipv6 and config.ruleset == "current"
        return (Family.V4, Family.V6) if both else (Family.V4,)

    @property
    def is_of_others(self) -> bool:
        """Whether this program would write other rules for these flags, or in other tables."""
        istio = self.inferred.form is Form.ISTIO_NATIVE
        return istio or self.kind is TableKind.IPTABLES_NFT

    @property
    def rulesets(self) -> list[Ruleset]:
        """The rules that the flags make in these tables, written by whoever wrote them."""
        made = wanted_rulesets(self.inferred.config, self.inferred.form)
        return [made[family] for family in self.held.tables]

    def rules(self, family: Family) -> int:
        """How many rules our chains have for a family."""
        return sum(
            len(chain.rules)
            for table in self.held.tables.get(family, {}).values()
            for chain in table.chains
            if self.held.native or chain.name.startswith(PREFIX)
        )

    def counted(self, chain: str) -> int:
        """The packets that the rules of a chain of nat have matched."""
        return sum(
            count.packets
            for (_, table), counts in self.counts.items()
            if table == "nat"
            for count in counts.get(chain, ())
            if count
        )


def find(rules: Mapping[Family, FamilyRules], passthrough: bool) -> list[Found]:
    """Each kind of tables that holds rules of ours, the one with the most rules first.

    `passthrough` is whether lo has ::6.
    """
    found = []
    for kind in (TableKind.LEGACY, TableKind.IPTABLES_NFT, TableKind.NATIVE):
        tables: dict[Family, dict[str, Table]] = {family: {} for family in rules}
        counts: dict[tuple[Family, str], Counts] = {}
        for family, of in rules.items():
            for name, each in _of_kind(of.tables, kind):
                before = tables[family].get(name, Table(name, ()))
                table = replace(each.table, name=name, chains=(*before.chains, *each.table.chains))
                tables[family][name] = table
                counts[family, name] = {**counts.get((family, name), {}), **each.counts}
        routes = {family: of.policy_routes for family, of in rules.items()}
        held = Held(kind is TableKind.NATIVE, tables, routes, passthrough)
        inferred = infer(held)
        if inferred:
            found.append(Found(kind, held, counts, inferred))
    return sorted(found, key=lambda each: -sum(map(each.rules, rules)))


def _of_kind(tables: Sequence[KernelTable], kind: TableKind) -> Iterator[tuple[str, KernelTable]]:
    """The tables of a kind, with their names in the model. One of our name is ours also if its
    chains are called elsewhere."""
    for each in tables:
        words = each.title.split()
        own = next((n for n, title in TABLES.items() if words[:2] == ["inet", title]), "")
        if own and kind is TableKind.NATIVE:
            yield own, each
        elif each.kind is kind:
            yield each.table.name, each


def other_meshes(rules: Mapping[Family, FamilyRules]) -> dict[str, list[str]]:
    """The chains of other meshes, by the name of the mesh."""
    found: dict[str, list[str]] = {}
    for of in rules.values():
        for table in of.tables:
            for chain in table.table.chains:
                mesh = mesh_of(chain.name)
                if mesh and chain.name not in found.setdefault(mesh, []):
                    found[mesh].append(chain.name)
    return found
