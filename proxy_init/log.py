"""The log on stderr: one line per message, as text for `kubectl logs` or as a JSON object.

Loading the standard library's `logging` would take 4 ms, a tenth of a run.
"""

from __future__ import annotations

import sys
import time

from .light import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal", "none")


class Logger:
    """Writes the messages of its level and above, one line each."""

    def __init__(self) -> None:
        self.set_up("info", as_json=False)

    def set_up(self, level: str, as_json: bool) -> None:
        """Log messages of `level`, one of LOG_LEVELS, and above."""
        self._level = LOG_LEVELS.index(level)
        self._as_json = as_json

    def debug(self, message: str, *values: object) -> None:
        """Log a detail that helps to find a fault."""
        self._write("debug", message, values)

    def info(self, message: str, *values: object) -> None:
        """Log a decision or an action."""
        self._write("info", message, values)

    def warning(self, message: str, *values: object) -> None:
        """Log something that was probably not intended."""
        self._write("warn", message, values)

    def error(self, message: str, *values: object) -> None:
        """Log a failure."""
        self._write("error", message, values)

    def summary(self, words: Mapping[str, str | int]) -> None:
        """Log the last line of a run: its result as key=value pairs, or as fields of the JSON."""
        level = "error" if words["result"] == "failed" else "info"
        self._write(level, " ".join(f"{key}={value}" for key, value in words.items()), (), words)

    def _write(
        self,
        level: str,
        message: str,
        values: tuple[object, ...],
        words: Mapping[str, str | int] = {},
    ) -> None:
        if LOG_LEVELS.index(level) < self._level or sys.stderr is None:
            return
        message = message % values if values else message
        if self._as_json:
            import json

            line = json.dumps({"level": level, "time": _now(), "msg": message, **words})
        else:
            # Between tabs, as Istio's own programs log.
            line = f"{_now()}\t{level}\t{_on_one_line(message)}"
        with suppress(OSError, ValueError):  # stderr has no reader, or is closed
            sys.stderr.write(f"{line}\n")


logger = Logger()


def _now() -> str:
    """The current time in UTC, to the microsecond."""
    now = time.time()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{seconds}.{int(now % 1 * 1e6):06d}Z"


def _on_one_line(message: str) -> str:
    """`message` with control characters escaped: the value of a flag must not forge log lines."""
    if message.isprintable():
        return message
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
