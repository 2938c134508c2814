"""What the unit tests share: a machine that exists in memory only, and short ways to call."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import settings

from proxy_init.config.config import Config, settle
from proxy_init.config.machine import Machine
from proxy_init.config.read import read_config
from proxy_init.errors import BadCall

VARIABLES_WITHOUT_A_FLAG = (
    "ENVOY_USER",
    "XTABLES_LOCKFILE",
)

# A slow machine is no failure, and the whole directory is to take seconds.
bounded = settings(deadline=None, max_examples=200)


@dataclass(frozen=True)
class FakeMachine:
    """A machine with these users, groups and files, and no others."""

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def user_id(self, name: str) -> int | None:
        return self.users.get(name)

    def group_id(self, name: str) -> int | None:
        return self.groups.get(name)

    def read_text(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.files[path]


BARE_MACHINE = FakeMachine()


def read(*argv: str, **environ: str) -> Config:
    """The configuration of a call with these arguments and variables."""
    return read_on(BARE_MACHINE, *argv, **environ)


def read_on(machine: Machine, /, *argv: str, **environ: str) -> Config:
    """The same, on a machine that has something."""
    return read_config(argv, environ, machine)


def complaints(*argv: str, **environ: str) -> list[str]:
    """The lines with which a call is refused."""
    with pytest.raises(BadCall) as caught:
        read(*argv, **environ)
    return str(caught.value).split("\n")


def settled(*argv: str, **environ: str) -> Config:
    """The same as `read`, in a namespace without a global IPv6 address."""
    return settle(read(*argv, **environ), ())
