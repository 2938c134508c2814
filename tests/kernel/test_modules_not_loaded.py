"""Modules that are not loaded yet: what can come is told from what can't."""

import errno
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from proxy_init.kernel import needs
from tests.fault_injection import replace, run_patched, told
from tests.foreign import NONE_MADE, tables_made
from tests.running import Result
from tests.schemas import read_json
from tests.socket_options import take_away_legacy_tables

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
LEGACY = ("--backend", "legacy")
ALIASES = {"ipt_owner": "xt_owner", "ipt_tcp": "xt_tcpudp", "ipt_REDIRECT": "xt_REDIRECT"}


def in_modules(directory: Path, loads: bool) -> None:
    """As where ip_tables is a module that is not loaded, and `directory` lists which there are."""
    take_away_legacy_tables()
    replace(needs, "modules_directory", lambda *_: directory)
    replace(needs, "may_load", lambda *_: loads)


def list_modules(directory: Path, *names: str, aliases: Mapping[str, str]) -> None:
    lines = (f"kernel/net/{name}.ko.xz: kernel/net/x_tables.ko.xz\n" for name in names)
    (directory / "modules.dep").write_text("".join(lines))
    lines = (f"alias {name} {module}\n" for name, module in aliases.items())
    (directory / "modules.alias").write_text("".join(lines))


def legacy_states(checked: Result) -> tuple[bool, dict[str, str]]:
    """Whether the backend works, and the state of what it needs of the kernel."""
    legacy, _ = read_json("check", checked.stdout)["backends"]
    of_kernel = (need for need in legacy["needs"] if need["kind"] in ("table", "match", "target"))
    return legacy["works"], {need["name"]: need["state"] for need in of_kernel}


def test_check_says_what_is_not_loaded_yet_and_what_loads_it(fresh: str, tmp_path: Path) -> None:
    list_modules(tmp_path, "iptable_nat", aliases=ALIASES)
    flags = ("check", *ALL, "--no-ipv6")
    yet = partial(in_modules, tmp_path, loads=True)
    checked = run_patched(fresh, yet, *flags, *LEGACY, "-O", "json")
    states = dict.fromkeys(("nat", "owner", "tcp", "REDIRECT"), "not loaded")
    assert (checked.status, legacy_states(checked)) == (0, (True, states)), checked.stdout
    text = " ".join(run_patched(fresh, yet, *flags, *LEGACY).stdout.split())
    assert text.startswith("These flags will work here, through the backend legacy.")
    assert (
        "table nat for IPv4: not loaded yet; modprobe, which applying runs, loads ip_tables "
        "match owner for IPv4: not loaded yet; the kernel loads ipt_owner when it is asked for "
    ) in text
    assert tables_made(fresh) == NONE_MADE


def test_what_this_process_may_not_load_is_missing_and_so_is_what_is_no_module(
    fresh: str, tmp_path: Path
) -> None:
    list_modules(tmp_path, "iptable_nat", aliases={"ipt_owner": "xt_owner"})
    flags = ("check", *ALL, "--no-ipv6")
    checked = run_patched(fresh, partial(in_modules, tmp_path, False), *flags, "-O", "json")
    states = {"nat": "missing", "owner": "not loaded", "tcp": "missing", "REDIRECT": "missing"}
    assert (checked.status, legacy_states(checked)) == (0, (False, states))
    nowhere = partial(in_modules, tmp_path / "none", True)  # as in most containers
    checked = run_patched(fresh, nowhere, *flags, *LEGACY, "-O", "json")
    states = {"nat": "missing", **dict.fromkeys(("owner", "tcp", "REDIRECT"), "not known")}
    assert (checked.status, legacy_states(checked)) == (4, (False, states))


def test_what_modprobe_does_not_load_is_named_as_missing(fresh: str, tmp_path: Path) -> None:
    list_modules(tmp_path, "iptable_nat", "ip6table_nat", aliases={})
    result = run_patched(fresh, partial(in_modules, tmp_path, True), *ALL, *LEGACY)
    assert result.status == 4
    for prefix, family in (("ip", "IPv4"), ("ip6", "IPv6")):
        for need, module in (
            ("table nat", f"{prefix}table_nat"),
            ("match owner", f"{prefix}t_owner"),
        ):
            line = f"missing {need} for {family}: on the node, modprobe {module}"
            assert any(each.startswith(line) for each in told(result)), result.stderr


def test_auto_is_legacy_where_only_its_tables_can_come(fresh: str, tmp_path: Path) -> None:
    list_modules(tmp_path, "iptable_nat", aliases=ALIASES)

    def only_modules() -> None:
        replace(needs, "refusal_of", lambda *_: errno.ENOENT)
        in_modules(tmp_path, True)

    checked = run_patched(fresh, only_modules, "check", *ALL, "--no-ipv6", "-O", "json")
    found = read_json("check", checked.stdout)
    assert (checked.status, found["works"], found["backend"]) == (0, True, "legacy")
