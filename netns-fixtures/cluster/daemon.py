"""Programs that run until they are stopped, each with its log in a file; inside the place."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

READY_SECONDS = 60.0
STOP_SECONDS = 20.0


class NotReady(Exception):
    """Something did not come up in time; says what it said last."""


def until(answer: Callable[[], T | None], *, seconds: float = READY_SECONDS, what: str = "") -> T:
    """Wait until `answer` gives something true without an error, and give it back.

    Raises NotReady after `seconds`, from the last error.
    """
    deadline = time.monotonic() + seconds
    while True:
        error: Exception | None = None
        try:
            if found := answer():
                return found
        except (OSError, subprocess.SubprocessError, LookupError, CommandFailed) as failure:
            error = failure
        if time.monotonic() > deadline:
            raise NotReady(f"{what or 'nothing'} after {seconds:.0f} s: {error}") from error
        time.sleep(0.1)


class CommandFailed(Exception):
    """A command gave another exit status than 0; says what it wrote."""


def run(command: Sequence[str], *, stdin: str = "", timeout: float = 60.0) -> str:
    """Run a command, and give its stdout.

    Raises CommandFailed; subprocess.TimeoutExpired after `timeout` seconds.
    """
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode != 0:
        words = " ".join(command)
        raise CommandFailed(f"{words}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Daemon:
    """A program that can be started and stopped any number of times."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], object],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.log = log
        self._command = command
        self._ready = ready
        self._environment = os.environ | (environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready. Raises NotReady, with the end of its log."""
        self._process = self._launch()
        try:
            until(self._answers, what=f"{self.name} is not ready")
        except NotReady as failure:
            raise NotReady(f"{failure}\n{self.log}:\n{self._end_of_log()}") from failure

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it with a signal, and wait for that; what it has started itself goes on."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a shell is not for it
            )

    def _answers(self) -> bool:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            self._process = None
            raise NotReady(
                f"{self.name} ended with status {status}\n{self.log}:\n{self._end_of_log()}"
            )
        self._ready()
        return True

    def _end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
