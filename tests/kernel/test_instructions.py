"""A run executes no more instructions than were recorded: a pod's start waits for them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pods import namespace
from tests.bench import instructions as bench
from tests.installed import installed

RECORDED = tomllib.loads(Path(bench.__file__).with_suffix(".toml").read_text())
MOST = 1.05
PYTHON = (sys.executable, "-I", "-S")


def run_anywhere(command: bench.Command) -> bench.Done:
    return subprocess.run(command, capture_output=True, text=True, env={})


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program as the image has it."""
    return str(installed(tmp_path_factory.mktemp("instructions")) / "start.py")


@pytest.fixture(scope="module")
def empty() -> float:
    """The instructions of an interpreter that has nothing to do, in millions."""
    return bench.instructions([*PYTHON, "-c", "pass"], run_anywhere)


@pytest.mark.parametrize(
    ("time", "case"), [(time, case) for time in RECORDED for case in RECORDED[time]]
)
def test_a_run_takes_no_more_than_was_recorded(
    fresh: str, program: str, empty: float, time: str, case: str
) -> None:
    def run(command: bench.Command) -> bench.Done:
        return namespace.run(fresh, command, env={}, timeout=300)  # valgrind takes 5 s alone

    command = [*PYTHON, program, *bench.COUNTED[case]]
    if time == "again":
        assert run(command).returncode == 0
    ratio = bench.instructions(command, run) / empty
    recorded = RECORDED[time][case]
    print(f"{case}, {time}: {ratio:.2f}, recorded {recorded:.2f}")
    assert ratio <= MOST * recorded
