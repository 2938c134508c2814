"""Reads all rules that a network namespace holds, in both kinds of tables, as far as this process
may. Changes nothing, and brings no table into being."""

from ..errors import ProxyInitError
from ..frozen import replace
from ..rules.model import BUILT_IN, Family, Ruleset
from .backend import Backend, tables_there
from .nftables.names import names
from .routing.addresses import has_ipv6
from .snapshot import Present, present
from .system.capabilities import missing_capabilities
from .system.refusal import NO_SUCH_TABLE


def all_rules() -> tuple[dict[Family, Present], list[str]]:
    """By family, its tables in the order in which packets meet them, and its policy routes; and
    what could not be read, with what that takes."""
    families = [*Family] if has_ipv6() else [Family.V4]
    found = {family: Present((), ()) for family in families}
    unseen: list[str] = []
    for backend in Backend:
        if not _may_be_there(backend, families):
            continue
        missing = missing_capabilities(backend.capabilities)
        if missing:
            words = " and ".join(f"CAP_{name}" for name in backend.capabilities)
            unseen.append(
                f"{backend.tables_in_words}: reading them takes {words} (kubectl debug "
                "--profile=netadmin, or sudo)"
            )
            continue
        try:
            backend.load()
            for family in families:
                found[family] = _added(found[family], present(Ruleset(family), backend))
        except ProxyInitError as error:
            unseen.append(f"{backend.tables_in_words}: {'; '.join(str(error).splitlines())}")
    return found, unseen


def _may_be_there(backend: Backend, families: list[Family]) -> bool:
    if backend is Backend.LEGACY:
        return any(tables_there(backend, family) for family in families)
    try:
        names()
    except OSError as error:
        return error.errno not in NO_SUCH_TABLE
    return True


def _added(before: Present, more: Present) -> Present:
    """Tables of two kinds together. Ours of nf_tables have the names of the legacy ones, so these
    say what they are."""
    taken = {each.title for each in before.tables}
    tables = [
        replace(each, title=f"{each.title} of nf_tables")
        if each.title in taken and each.title in BUILT_IN
        else each
        for each in more.tables
    ]
    ordered = sorted((*before.tables, *tables), key=lambda each: each.priority)
    return Present(tuple(ordered), more.policy_routes)
