"""What tests of the node agent have: a runtime's socket, and the agent."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.node.fake_runtime import AgentProcess, FakeRuntime, agent
from tests.running import fresh_namespace

Start = Callable[..., AgentProcess]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    """A runtime that waits for a plugin."""
    runtime = FakeRuntime(tmp_path / "nri.sock")
    yield runtime
    runtime.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an agent with some flags; all are gone after the test."""
    with ExitStack() as stack:

        def start(*words: str, before: tuple[str, ...] = ()) -> AgentProcess:
            files = (tmp_path / "nri.sock", tmp_path / "log")
            return stack.enter_context(agent(*files, *words, before=before))

        yield start


@pytest.fixture
def fresh() -> Iterator[str]:
    """A network namespace in which nobody has touched any table."""
    with fresh_namespace() as name:
        yield name
