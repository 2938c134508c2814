"""The byte code of a plain call in few files, where somebody has put it there.

Python looks for each module in several places and reads a file for it; a plain call loads 70. The
image has the code of all these in one file for every call, and one more for each backend. Together,
they are read with a quarter fewer instructions: strings that modules have in common are there once.

    python3 -m proxy_init.bundle [--unchecked] [ROOT]

makes the files, beside what Python itself keeps of its byte code. ROOT is taken off the paths of
sources: where this is not yet the place that the program will run in. Unless they are unchecked,
the files count only as long as no source has changed since.
"""

import marshal
import sys
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader, spec_from_file_location
from posix import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType
    from typing import Any

_KERNEL = "proxy_init.kernel"
GROUPS: "Mapping[str, Sequence[str]]" = {
    "plain": (
        *("proxy_init.cli.main", "proxy_init.config.warnings", f"{_KERNEL}.system.lock"),
        *(f"{_KERNEL}.choice", f"{_KERNEL}.apply"),
    ),
    "routing": (f"{_KERNEL}.routing.rtnetlink",),
    "legacy": (
        *(f"{_KERNEL}.legacy.sockopt", f"{_KERNEL}.legacy_steps", f"{_KERNEL}.legacy.libiptc"),
        *("_compat_pickle", "copyreg"),  # of children, one for each of two families
        *("iptc", "iptc.errors", "iptc.ip4tc", "iptc.version", "iptc.xtables"),
    ),
    "nft": (f"{_KERNEL}.nft_steps", "proxy_init.rulesets.native", "proxy_init.rules.counts"),
}
"""What each file holds: these modules and what they import, but for what is in a file above."""


def directory_of(package: str) -> str:
    """Where the files are of the package in the directory `package`, for this interpreter."""
    return f"{package}/__pycache__/bundle.{sys.implementation.cache_tag}"


def use(package: str) -> None:
    """From now on, import modules from the files of the package in `package`, if there are any."""
    directory = directory_of(package)
    try:
        magic, stamps, modules = marshal.loads(_content(f"{directory}/index"))
        if magic != MAGIC_NUMBER or any(_stamp(path) != stamps[path] for path in stamps):
            return
    except OSError:  # there are none, or a source has gone
        return
    sys.meta_path.insert(0, _Finder(directory, modules))


def _stamp(path: str) -> tuple[int, int]:
    status = stat(path)
    return status.st_mtime_ns, status.st_size


class _Finder:
    def __init__(self, directory: str, modules: "Mapping[str, tuple[str, str, bool]]") -> None:
        self._directory = directory
        self._modules = modules
        self._read: dict[str, Mapping[str, CodeType]] = {}

    def find_spec(self, name: str, *_: object) -> "ModuleSpec | None":
        if name not in self._modules:
            return None
        group, path, is_package = self._modules[name]
        if group not in self._read:
            self._read[group] = marshal.loads(_content(f"{self._directory}/{group}"))
        loader = _Loader(name, path)
        loader.code = self._read[group][name]
        within = [path.rpartition("/")[0]] if is_package else None
        spec = spec_from_file_location(name, path, loader=loader, submodule_search_locations=within)
        if spec:  # always; where it has none, it would work out a name for this
            spec.cached = self._directory
        return spec


class _Loader(SourceFileLoader):
    code: "CodeType"

    def get_code(self, _: str) -> "CodeType":
        return self.code


def write(root: str = "", *, checked: bool = True) -> None:
    """Make the files for this interpreter, of the package that this module is in."""
    import os
    import shutil
    import warnings

    warnings.simplefilter("ignore")  # of python-iptables, whose regular expressions lack the r
    directory = directory_of(os.path.dirname(__file__))  # noqa: PTH120
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)  # noqa: PTH103
    modules: dict[str, tuple[str, str, bool]] = {}
    for group, names in GROUPS.items():
        codes: dict[str, CodeType] = {}
        for name in _loaded_by(names):
            path = _source(name)
            if path and name not in modules:
                shown = path.removeprefix(root)
                code = compile(_content(path), shown, "exec", dont_inherit=True, optimize=2)
                codes[name] = code
                modules[name] = (group, shown, path.endswith("/__init__.py"))
        _store(f"{directory}/{group}", codes)
    stamps = {path: _stamp(path) for _, path, _ in modules.values()} if checked else {}
    _store(f"{directory}/making", (MAGIC_NUMBER, stamps, modules))
    os.rename(f"{directory}/making", f"{directory}/index")  # noqa: PTH104


def _loaded_by(names: "Sequence[str]") -> list[str]:
    """What a new interpreter loads to import some modules. Those of other projects, which may not
    be imported just so, stand for themselves."""
    import subprocess

    ours = [name for name in names if name.startswith("proxy_init")]
    lines = (
        f"import sys; sys.path[:] = {sys.path!r}; before = [*sys.modules]",
        *(f"import {name}" for name in ours),
        "print(*(name for name in sys.modules if name not in before))",
    )
    command = [sys.executable, "-I", "-S", "-c", "\n".join(lines)]
    loaded = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return [*loaded, *(name for name in names if name not in ours)]


def _source(name: str) -> str:
    """The file that a module is made of, if that is Python; nothing is imported."""
    from importlib.machinery import PathFinder

    within = None
    parts = name.split(".")
    for number in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:number]), within)
        if spec is None:
            return ""
        within = spec.submodule_search_locations
    origin = (spec and spec.origin) or ""
    return origin if origin.endswith(".py") else ""


def _content(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def _store(path: str, value: "Any") -> None:
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(marshal.dumps(value))


def _main(words: list[str]) -> None:
    roots = [word for word in words if word != "--unchecked"]
    write(*roots, checked=roots == words)


if __name__ == "__main__":
    _main(sys.argv[1:])
