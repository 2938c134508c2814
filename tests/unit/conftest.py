"""Fixtures of the unit tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy_init.cli.main import main
from proxy_init.config.flags import FLAGS
from proxy_init.kernel.system.workers import Worker
from proxy_init.log import logger

from .fakes import VARIABLES_WITHOUT_A_FLAG

Call = Callable[..., int]


@pytest.fixture
def last_words(tmp_path: Path) -> Path:
    """Where a program that `call` runs leaves why it failed."""
    return tmp_path / "termination-log"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, last_words: Path) -> Iterator[Call]:
    """Runs the program in this process with these arguments and variables, and no others."""
    for flag in FLAGS:
        for name in flag.variables.split():
            monkeypatch.delenv(name, raising=False)
    for name in VARIABLES_WITHOUT_A_FLAG:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERMINATION_LOG", str(last_words))
    # This is the machine's own network namespace: no unit test may get as far as the kernel.
    monkeypatch.setattr(Worker, "__init__", _refuse)

    def run(*argv: str, **environ: str) -> int:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["proxy-init", *argv])
        return main()

    yield run
    logger.set_up("info", as_json=False)


def _refuse(*_: object) -> None:
    raise AssertionError("a unit test is about to read or write the kernel's rules")
