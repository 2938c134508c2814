"""Kernel modules: whether one that is not loaded can be loaded."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from .capabilities import missing_capabilities
from .proc import read

_ALL_IDS = ["0", "0", "4294967295"]


class State(Enum):
    """The state of something in the kernel."""

    THERE = "there"
    NOT_LOADED = "not loaded"
    """A module that is loaded when rules ask for it."""
    MISSING = "missing"
    NOT_KNOWN = "not known"


# How each list of a kernel's directory of modules names one; in its lines, _ and - are the same.
_LOADABLE = {
    "modules.dep": ("/{}.ko:", "/{}.ko.gz:", "/{}.ko.xz:", "/{}.ko.zst:"),
    "modules.alias": ("\nalias {} ",),
}
_BUILT_IN = {"modules.builtin": ("/{}.ko\n",), "modules.builtin.modinfo": (".alias={}\0",)}


def state_on_disk(name: str, directory: Path) -> State:
    """How a module stands by what a kernel's directory of modules lists.

    The name may be an alias, as the kernel has them for matches and targets. Where the list of
    modules is not to be seen, as in a container, it is not known. Sources: man 5 modules.dep,
    man 5 modprobe.d, Documentation/kbuild/kbuild.rst (modules.builtin, modules.builtin.modinfo).
    """
    if _is_listed(name, directory, _BUILT_IN):
        return State.THERE
    if _is_listed(name, directory, _LOADABLE):
        return State.NOT_LOADED
    return State.MISSING if (directory / "modules.dep").exists() else State.NOT_KNOWN


def _is_listed(name: str, directory: Path, lists: Mapping[str, Sequence[str]]) -> bool:
    for file_name, forms in lists.items():
        with suppress(OSError):
            text = "\n" + (directory / file_name).read_text(errors="replace").replace("-", "_")
            if any(form.format(name) in text for form in forms):
                return True
    return False


def modules_directory() -> Path:
    """The directory with the modules of the running kernel, if it is visible here."""
    return Path("/lib/modules", os.uname().release)


def may_load() -> bool:
    """Whether this process may load modules with modprobe; in a container it may not."""
    try:
        allowed = (
            read("/proc/self/uid_map").split() == _ALL_IDS  # else its capabilities end elsewhere
            and read("/proc/sys/kernel/modules_disabled").strip() == "0"
        )
    except OSError:  # a kernel without modules
        return False
    return allowed and not missing_capabilities(["SYS_MODULE"]) and bool(shutil.which("modprobe"))
