"""The small parts of the standard library do what the real ones do."""

import contextlib
import enum
import functools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from proxy_init import light
from proxy_init.rules.model import Family

both = pytest.mark.parametrize("library", [light, contextlib], ids=["light", "contextlib"])


@both
def test_suppress_ends_the_block_for_its_exceptions_alone(library: Any) -> None:
    def fail(error: Exception) -> None:
        raise error

    with library.suppress(KeyError, ValueError):
        fail(ValueError())
    with library.suppress(OSError):
        fail(FileNotFoundError())
    with pytest.raises(ZeroDivisionError), library.suppress(KeyError):
        fail(ZeroDivisionError())
    with library.suppress(KeyError):
        pass


class Seen(list[str]):
    """What happened, in order."""

    def block(self, library: Any, name: str, *, swallows: bool = False, fails: bool = False) -> Any:
        @library.contextmanager  # type: ignore[untyped-decorator]
        def manager() -> Iterator[str]:
            self.append(f"enter {name}")
            try:
                yield name
            except ArithmeticError:
                self.append(f"{name} saw it")
                if not swallows:
                    raise
            finally:
                self.append(f"leave {name}")
            if fails:
                raise LookupError(name)

        return manager()


def outcome(library: Any, *, raises: bool, swallows: bool, fails: bool) -> list[str]:
    seen = Seen()
    try:
        with library.ExitStack() as stack:
            names = [
                stack.enter_context(seen.block(library, "outer")),
                stack.enter_context(seen.block(library, "inner", swallows=swallows, fails=fails)),
            ]
            seen.append(" ".join(names))
            if raises:
                raise ArithmeticError
        seen.append("went on")
    except Exception as error:
        seen.append(type(error).__name__)
    return seen


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_blocks_end_as_those_of_contextlib(raises: bool, swallows: bool, fails: bool) -> None:
    kind = {"raises": raises, "swallows": swallows, "fails": fails}
    assert outcome(light, **kind) == outcome(contextlib, **kind)


@both
def test_a_generator_must_yield_once(library: Any) -> None:
    @library.contextmanager  # type: ignore[untyped-decorator]
    def twice() -> Iterator[None]:
        yield
        yield

    with pytest.raises(RuntimeError, match="didn't stop"), twice():
        pass


@both
def test_a_block_may_raise_what_ends_generators(library: Any) -> None:
    @library.contextmanager  # type: ignore[untyped-decorator]
    def plain() -> Iterator[None]:
        yield

    with pytest.raises(StopIteration), plain():
        raise StopIteration


def test_partial_and_cache_are_those_of_functools() -> None:
    assert light.partial(pow, 2)(5) == functools.partial(pow, 2)(5)
    calls: list[int] = []

    @light.cache
    def squared(number: int) -> int:
        calls.append(number)
        return number * number

    assert [squared(3), squared(3), squared(4)] == [9, 9, 16]
    assert calls == [3, 4]


class Ours(light.Enum):
    ONE = "1"
    TWO = "2"

    @property
    def doubled(self) -> str:
        return self.value * 2


class Theirs(enum.Enum):
    ONE = "1"
    TWO = "2"

    @property
    def doubled(self) -> str:
        return self.value * 2


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_an_enumeration_has_the_members_of_enum(kind: Any) -> None:
    assert [member.name for member in kind] == ["ONE", "TWO"]
    assert kind("2") is kind.TWO
    assert kind.TWO.doubled == "22"
    assert kind.ONE in kind
    assert len(kind) == 2
    assert {kind.ONE: 1, kind.TWO: 2}[kind("1")] == 1
    assert pickle.loads(pickle.dumps(kind.TWO)) is kind.TWO
    with pytest.raises(ValueError, match="not a valid"):
        kind("3")


def test_a_family_survives_the_way_out_of_a_child() -> None:
    assert pickle.loads(pickle.dumps(Family.V6)) is Family.V6


def test_os_is_what_everybody_has_once_it_is_loaded() -> None:
    assert light.os is os


USES_OF_OS = r"""
import json, sys
sys.path[:] = json.loads(sys.argv[1])
if sys.argv[2] == "real":
    import os
from proxy_init.light import os
os.environ["GIVEN"] = "to children"
with os.fdopen(os.open(os.devnull, os.O_RDONLY), "rb") as file:
    empty = file.read()
print(
    type(os).__name__,
    [
        os.fsencode("\udcff"), os.fsdecode(b"\xff"), os.getenv("HOME"), os.getenv("NONE", "none"),
        sorted(os.environ.items()), os.name, os.strerror(2), empty,
        os.path.join("a", "b"),  # which it has of the real one
        os.system("echo $GIVEN >&2"),
    ],
)
"""


def test_os_without_what_it_loads_does_the_same() -> None:
    def run(which: str) -> tuple[str, str, str]:
        command = [sys.executable, "-I", "-S", "-c", USES_OF_OS, json.dumps(sys.path), which]
        environ = {"HOME": "/home", "ODD": "\udcff", "PATH": os.environ["PATH"]}
        result = subprocess.run(command, capture_output=True, text=True, env=environ)
        assert result.returncode == 0, result.stderr
        kind, _, said = result.stdout.partition(" ")
        return kind, said, result.stderr

    kind, said, child_said = run("light")
    assert kind == "_Os"
    assert ("module", said, child_said) == run("real")
    assert child_said == "to children\n"
