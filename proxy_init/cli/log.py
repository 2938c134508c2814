"""The log, on stderr: a line that a person reads in `kubectl logs`, or a JSON object."""

import json
import logging
import sys
import time
from collections.abc import Mapping

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}
_WORDS = {number: word for word, number in _LEVELS.items()}

logger = logging.getLogger("proxy_init")


def set_up(level: str, as_json: bool) -> None:
    """Log what is of `level` or above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _TextLines())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(_LEVELS[level])


def summary(words: Mapping[str, str | int]) -> None:
    """The last line of a run: what became of it, as key=value words."""
    line = " ".join(f"{key}={value}" for key, value in words.items())
    logger.log(
        logging.ERROR if words["result"] == "failed" else logging.INFO, line, extra={"words": words}
    )


class _TextLines(logging.Formatter):
    """Time in UTC, level and message between tabs, as Istio's own programs log."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)}\t{_WORDS[record.levelno]}\t{_on_one_line(record.getMessage())}"


class _JsonLines(logging.Formatter):
    """The same, and a summary's words each as a field."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"level": _WORDS[record.levelno], "time": _time(record)}
        words = getattr(record, "words", {})
        return json.dumps({**fields, "msg": record.getMessage(), **words})


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.created % 1 * 1e6):06d}Z"


def _on_one_line(message: str) -> str:
    """With control characters escaped: what a flag holds must not forge lines of the log."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
