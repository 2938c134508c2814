"""Does work one step at a time, in child processes if needed.

libxtables can serve only one family in a process, and may end the process on an error. So each
family's work is a generator that runs in a child of its own: the parent asks for one step after
the other, of several children side by side, and survives whatever happens in them. A family that is
alone can do without, which saves a child's 5 ms.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal without its enumerations

from ...errors import ApplyFailed, NodeCannot, ProxyInitError
from ...light import AbstractContextManager, os, partial, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType
    from typing import BinaryIO, TypeVar

    Step = TypeVar("Step")


class Worker(AbstractContextManager["Worker[Step]"]):
    """A child process that takes the steps of a generator when asked.

    Use it as a context manager; at its end the child is gone. A child whose parent dies takes no
    further step.
    """

    def __init__(self, title: str, steps: Callable[[], Iterator[Step]]) -> None:
        _pickle()  # for `answer` and `_serve`: here it is loaded once
        self.title = title
        asked, self._ask = os.pipe()
        answers, answer = os.pipe()
        self._output = os.memfd_create("output")
        self._pid = os.fork()
        if self._pid == 0:
            # os._exit: nothing of the parent's may be cleaned up or flushed a second time.
            try:
                # Ctrl-C is the parent's to deal with; it takes back what is half done.
                _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
                os.close(self._ask)
                _only_output(self._output)
                _serve(steps(), asked, os.fdopen(answer, "wb"))
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answer)
        self._answers: BinaryIO = os.fdopen(answers, "rb")

    def __enter__(self) -> Worker[Step]:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._ask)
        self._answers.close()
        os.waitpid(self._pid, 0)
        os.close(self._output)

    def fileno(self) -> int:
        """The file descriptor that is readable when `answer` does not wait."""
        return self._answers.fileno()

    def kill(self) -> int:
        """Kill the child. Returns a file descriptor that is readable when the child is gone; the
        caller closes it."""
        os.kill(self._pid, _signal.SIGKILL)
        return os.pidfd_open(self._pid)

    def ask(self) -> None:
        """Let the child start its next step."""
        with suppress(BrokenPipeError):  # `answer` says what happened
            os.write(self._ask, b".")

    def answer(self) -> Step:
        """What the step yielded. Raises what it raised; ApplyFailed if the child has ended."""
        try:
            kind, value = _pickle().load(self._answers)
        except EOFError:
            raise ApplyFailed(f"{self.title}: libxtables ended the work: {self._said()}") from None
        if kind == "error":
            raise value
        if kind == "bug":
            raise RuntimeError(value)
        step: Step = value
        return step

    def _said(self) -> str:
        """The text that libraries printed in the child."""
        printed = os.pread(self._output, 4096, 0).decode(errors="replace").strip()
        return printed or "it printed nothing"


class InProcess(AbstractContextManager["InProcess[Step]"]):
    """The steps of a generator, taken in this process.

    Should libxtables end it, the run ends with that: so nothing may be changed before libxtables
    has seen all.
    """

    def __init__(self, steps: Callable[[], Iterator[Step]]) -> None:
        self._steps = steps()

    def __exit__(self, *exception: object) -> None:
        pass

    def ask(self) -> None:
        """Does nothing: the step runs when its answer is requested."""

    def answer(self) -> Step:
        """The value that the step yields. Raises what it raises."""
        return next(self._steps)


def side_by_side(workers: Sequence[Worker[Step] | InProcess[Step]]) -> list[Step]:
    """One step of every worker, at the same time. Raises a failure after all have finished."""
    for worker in workers:
        worker.ask()
    answers: list[Step] = []
    failures: list[Exception] = []
    for worker in workers:
        try:
            answers.append(worker.answer())
        except (ProxyInitError, RuntimeError) as error:
            failures.append(error)
    if failures:
        raise _together(failures)
    return answers


def _together(failures: Sequence[Exception]) -> Exception:
    """One failure for all: it names what the node lacks for either family."""
    if all(isinstance(failure, NodeCannot) for failure in failures):
        lines = (line for failure in failures for line in str(failure).splitlines())
        return NodeCannot("\n".join(dict.fromkeys(lines)))
    return failures[0]


def _only_output(output: int) -> None:
    """Send what libraries print to the file that the parent reads if the child ends early."""
    os.dup2(output, 1)
    os.dup2(output, 2)


def _serve(steps: Iterator[Step], asked: int, answers: BinaryIO) -> None:
    while os.read(asked, 1):
        message: tuple[str, object]
        try:
            message = ("step", next(steps))
        except ProxyInitError as error:
            message = ("error", error)
        except Exception:
            import traceback

            message = ("bug", traceback.format_exc())
        _pickle().dump(message, answers)
        answers.flush()


def _pickle() -> ModuleType:
    """The part of `pickle` that is C, which needs no more of `functools` than its partial."""
    from .stand_ins import module, stand_ins

    with stand_ins({"functools": module("functools", partial=partial)}):
        import _pickle
    return _pickle
