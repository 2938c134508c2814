"""What must hold on a kernel whose netfilter is all modules, none of them loaded yet.

`run` boots such kernels, and starts this there. The argument says whether modules can be loaded:
`loadable` or `none`. The last line is "all expectations held", if they did.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pods import ENVIRONMENT, make_pod, namespace

PROGRAM = (sys.executable, "-m", "proxy_init")
USUAL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*")
FLAGS = (*USUAL, "--ipv6", "--redirect-dns")
BACKENDS = ("auto", "legacy", "nft")
TABLES = {
    "REDIRECT": ("table raw", "table nat"),
    "TPROXY": ("table raw", "table mangle", "table nat"),
}
"""By mode, the legacy tables that its rules stand in."""
_OF_BOTH = (
    "match multiport",
    "match owner",
    "match tcp",
    "match udp",
    "target CT",
    "target REDIRECT",
)
_OF_TPROXY = ("match connmark", "match conntrack", "match mark", "target CONNMARK", "target MARK")
EXTENSIONS = {"REDIRECT": _OF_BOTH, "TPROXY": (*_OF_BOTH, *_OF_TPROXY, "target TPROXY")}
"""By mode, the extensions of x_tables that its rules take."""
# As in an init container: no right to load modules, and none to be seen.
CONTAINED = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs none /lib/modules && exec setpriv --bounding-set=-sys_module "$@"',
    "sh",
)

broken: list[str] = []


def expect(what: str, holds: bool, shown: object = "") -> None:
    """State an expectation, and whether it holds; if not, `shown` says what there was instead."""
    print("held:  " if holds else "BROKEN:", what, flush=True)
    if not holds:
        print(shown, flush=True)
        broken.append(what)


def run(name: str, *words: str, within: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the program in a network namespace."""
    return namespace.run(name, [*within, *PROGRAM, *words], env=ENVIRONMENT, timeout=300)


def check(
    name: str, *words: str, within: Sequence[str] = ()
) -> tuple[int, dict[str, bool], dict[str, dict[str, Any]]]:
    """Of `check`, the exit status; and by backend, whether it works, and its needs of the kernel,
    named as in an error."""
    result = run(name, "check", *words, "-O", "json", within=within)
    backends = json.loads(result.stdout)["backends"]
    works = {each["backend"]: each["works"] for each in backends}
    needs = {
        each["backend"]: {
            " ".join(filter(None, (need["kind"], need["name"], _for(need["family"])))): need
            for need in each["needs"]
            if need["kind"] not in ("capability", "libraries")
        }
        for each in backends
    }
    return result.returncode, works, needs


def _for(family: str | None) -> str:
    return f"for {family}" if family else ""


def states(needs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: need["state"] for name, need in needs.items()}


def legacy(mode: str, tables: str, extensions: str) -> dict[str, str]:
    """What a mode needs of x_tables, all tables in one state, all extensions in another."""
    return {
        f"{need} for {family}": state
        for family in ("IPv4", "IPv6")
        for state, needed in (
            (tables, TABLES[mode]),
            (extensions, EXTENSIONS[mode]),
        )
        for need in needed
    }


def in_kernel(name: str) -> str:
    """The tables that a namespace has, of both kinds."""
    command = "cat /proc/self/net/ip*_tables_names 2>&-; nft list ruleset"
    return namespace.run(name, ["sh", "-c", command], env=ENVIRONMENT).stdout


def loaded() -> set[str]:
    """The names of the modules that are loaded."""
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


def check_tells_what_can_come(name: str, mode: str) -> None:
    """The kernel loads all but ip_tables and ip6_tables by itself; libiptc's side loads these,
    where it may."""
    asked = ("-m", mode, *FLAGS)
    status, works, needs = check(name, *asked, within=CONTAINED)
    found, expected = states(needs["legacy"]), legacy(mode, "missing", "not known")
    expect(f"{mode}: in a container, nft works", (status, works["nft"]) == (0, True), needs["nft"])
    expect(f"{mode}: there, no legacy table can come", found == expected, found)
    remedies = {need["remedy"].partition(";")[0] for need in needs["legacy"].values()}
    modules = [remedy.removeprefix("on the node, modprobe ") for remedy in remedies]
    tried = subprocess.run(["modprobe", "--dry-run", "--all", *modules], check=False)
    expect(f"{mode}: each remedy names a module that there is", tried.returncode == 0, modules)

    status, works, needs = check(name, *asked)
    found, expected = states(needs["legacy"]), legacy(mode, "not loaded", "not loaded")
    expect(f"{mode}: for root, both backends work", (status, {*works.values()}) == (0, {True}))
    expect(f"{mode}: all of legacy is not loaded yet", found == expected, found)
    found = states(needs["nft"])
    expect(f"{mode}: all of nft is there", {*found.values()} == {"there"}, found)
    expect(f"{mode}: check loads no legacy tables", not {"ip_tables", "ip6_tables"} & loaded())
    expect(f"{mode}: check makes no table", in_kernel(name) == "", in_kernel(name))


def all_commands_work(mode: str, backend: str, where: str = "") -> None:
    asked = ("-m", mode, "--backend", backend, *FLAGS)
    what = f"{where}{mode}, backend {backend}:"
    with make_pod() as pod:
        for command, words, status in (
            ("status before", ("status", *asked), 3),
            ("apply", asked, 0),
            ("status", ("status", *asked), 0),
            ("apply again", asked, 0),
            ("check", ("check", *asked), 0),
            ("validate", ("validate", *asked), 0),
            ("clean", ("clean", *asked), 0),
        ):
            done = run(pod.namespace, *words)
            expect(f"{what} {command} exits {status}", done.returncode == status, done)
            if command == "validate":
                summary = done.stdout.splitlines()[-1]
                passed = " 0 failed" in summary and not summary.startswith("0 passed")
                expect(f"{what} {summary}", passed, done.stdout)
        left = in_kernel(pod.namespace)
        expect(f"{what} clean leaves nothing of ours", "ISTIO" not in left.upper(), left)


def all_is_named_that_is_missing(name: str, mode: str, backend: str, extensions: str) -> None:
    """Where no module can be loaded; legacy `extensions` are known to be missing, or not known."""
    asked = ("-m", mode, "--backend", backend, *FLAGS)
    what = f"{mode}, backend {backend}:"
    status, _, needs = check(name, *asked)
    found, expected = states(needs["legacy"]), legacy(mode, "missing", extensions)
    expect(f"{what} check exits 4", status == 4)
    expect(f"{what} legacy tables are missing, extensions {extensions}", found == expected, found)
    found = states(needs["nft"])
    expect(f"{what} all of nft is missing", {*found.values()} == {"missing"}, found)

    missing = states(needs["legacy" if backend == "legacy" else "nft"]).items()
    for command in ((), ("status",)) if backend == "auto" else ((),):
        done = run(name, *command, *asked)
        left_out = [n for n, s in missing if s == "missing" and f"missing {n}:" not in done.stderr]
        title = f"{what} {command[0] if command else 'apply'}"
        expect(f"{title} exits 4", done.returncode == 4, done)
        expect(f"{title} names all that is missing", not left_out, (left_out, done.stderr))


def unload_netfilter() -> None:
    netfilter = ("ip_tables", "ip6_tables", "iptable_", "ip6table_", "nf", "x_tables", "xt_")
    for _ in range(20):  # some hold others, and the last namespace ends in the kernel's own time
        for module in loaded():
            if module.startswith(netfilter):
                subprocess.run(["rmmod", module], stderr=subprocess.DEVNULL, check=False)
        time.sleep(0.5)
    expect("all of netfilter can be unloaded", not {"x_tables", "nf_tables"} & loaded(), loaded())


def forbid(module: str) -> None:
    """Let no program load a module, nor any that needs it; others come again."""
    Path("/etc/modprobe.d/none.conf").write_text(f"install {module} /bin/false\n")


def nft_works_where_x_tables_cannot_come() -> None:
    unload_netfilter()
    forbid("x_tables")
    for mode in TABLES:
        for backend in ("auto", "nft"):
            all_commands_work(mode, backend, "without x_tables, ")
    expect("nothing of x_tables was loaded", "x_tables" not in loaded(), loaded())


def auto_takes_legacy_where_nf_tables_cannot_come() -> None:
    unload_netfilter()
    forbid("nf_tables")
    with make_pod() as pod:
        for command, words in (("check", ["check"]), ("apply", []), ("status", ["status"])):
            done = run(pod.namespace, *words, *FLAGS)
            expect(f"without nf_tables, {command} exits 0", done.returncode == 0, done)
        done = run(pod.namespace, "clean", "--backend", "nft")
        expect("without nf_tables, cleaning these exits 0", done.returncode == 0, done)
        there = in_kernel(pod.namespace)
        expect("the rules are in legacy tables", "nat" in there.split(), there)


def with_modules() -> None:
    with namespace.namespace("fresh") as name:
        for mode in TABLES:
            check_tells_what_can_come(name, mode)
    for mode in TABLES:
        for backend in BACKENDS:
            all_commands_work(mode, backend)
    with namespace.namespace("fresh") as name:
        for mode in TABLES:
            found = states(check(name, "-m", mode, *FLAGS, within=CONTAINED)[2]["legacy"])
            expected = legacy(mode, "there", "there")
            expect(f"{mode}: once loaded, all of legacy is there", found == expected, found)
    nft_works_where_x_tables_cannot_come()
    auto_takes_legacy_where_nf_tables_cannot_come()


def without_modules() -> None:
    with namespace.namespace("fresh") as name:
        for mode in TABLES:
            for backend in BACKENDS:
                all_is_named_that_is_missing(name, mode, backend, "not known")
        for backend in BACKENDS:
            done = run(name, "clean", "--backend", backend)
            silent = (done.returncode, done.stderr) == (0, "")
            expect(f"clean, backend {backend}, finds nothing, and says nothing", silent, done)
        # Now the kernel's directory of modules can be seen, and lists none.
        directory = Path("/lib/modules", os.uname().release)
        directory.mkdir()
        (directory / "modules.dep").touch()
        for mode in TABLES:
            all_is_named_that_is_missing(name, mode, "legacy", "missing")


def main(modules: str) -> int:
    Path("/etc/resolv.conf").write_text("nameserver 10.96.0.10\nnameserver 2001:db8::53\n")
    expect("no module of netfilter is loaded yet", not {"x_tables", "nfnetlink"} & loaded())
    if modules == "loadable":
        with_modules()
    else:
        without_modules()
    if broken:
        print(f"{len(broken)} expectations did not hold:", *broken, sep="\n  ")
        return 1
    print("all expectations held")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
