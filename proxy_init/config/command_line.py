"""Splits a command line into flags and values by the table of flags.

It follows pflag, the library of the program that proxy-init replaces, because manifests were
written for it: `--name value`, `--name=value`, `-x value`, `-xvalue`, `-x=value`; a switch takes a
value only after `=`; a value may look like a flag. Python's own parsers differ in each of these
points and stop at the first error. This one continues, so that all errors are reported together.
"""

from __future__ import annotations

from ..errors import Mistake
from ..frozen import Frozen, replace
from .flags import FLAGS, Flag, FlagKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _by_spelling(flags: Sequence[Flag]) -> Mapping[str, Flag]:
    return {word: flag for flag in flags for word in f"{flag.spellings} {flag.opposite}".split()}


_BY_SPELLING = _by_spelling(FLAGS)


class Setting(Frozen):
    """A value as it was given, and its source: the flag as typed, or the variable.

    `opposite` is true for the spelling that turns a switch off, such as --no-ipv6.
    """

    source: str
    text: str
    opposite: bool = False
    overruled: tuple[Setting, ...] = ()
    """Other variables of the same flag, which this one overrides."""

    @property
    def is_variable(self) -> bool:
        """Whether the value comes from a variable, not from the command line."""
        return not self.source.startswith("-")


class CommandLine(Frozen):
    """A split command line: the last value of each flag, by the flag's name, and the errors."""

    given: Mapping[str, Setting]
    mistakes: tuple[Mistake, ...] = ()


def split(words: Sequence[str], extra: Sequence[Flag] = ()) -> CommandLine:
    """Split the words after the command's name into flags and their values.

    `extra` are the options that only this command has.
    """
    known = {**_BY_SPELLING, **_by_spelling(extra)}
    given: dict[str, Setting] = {}
    mistakes: list[Mistake] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        spelling, value = _spelling_and_value(word)
        flag = known.get(spelling)
        if flag is None:
            mistakes.append(_unknown_word(word, spelling, known))
            if value is None and word.startswith("-"):
                _drop_value(rest)
            continue
        if value is None and flag.kind is FlagKind.VALUE:
            if not rest:
                mistakes.append(Mistake(spelling, None, "expected a value after it"))
                continue
            value = rest.pop()
            if _lacks_value(value, known):
                _drop_value(rest)
        elif value is None and flag.kind is FlagKind.BACKEND and rest and rest[-1] in BACKENDS:
            value = rest.pop()
        elif value and flag.kind is FlagKind.SWITCH and word[1] != "-" and word[2] != "=":
            # Switches may share a dash: -nf is -n -f.
            rest.append(f"-{value}")
            value = None
        text = "true" if value is None else value
        if flag.repeats and flag.name in given:
            text = f"{given[flag.name].text},{text}"
        given[flag.name] = Setting(spelling, text, spelling == flag.opposite)
    return CommandLine(given, tuple(mistakes))


def _lacks_value(word: str, known: Mapping[str, Flag]) -> bool:
    """Whether `word`, read as another flag's value, is itself a flag whose value comes next."""
    spelling, value = _spelling_and_value(word)
    flag = known.get(spelling)
    return flag is not None and flag.kind is FlagKind.VALUE and value is None


def _drop_value(rest: list[str]) -> None:
    """Skip the value of a flag that is an error already, so that only one error is reported."""
    if rest and not rest[-1].startswith("-"):
        rest.pop()


BACKENDS = ("legacy", "nft", "")


def _spelling_and_value(word: str) -> tuple[str, str | None]:
    if word.startswith("--"):
        spelling, equals, value = word.partition("=")
        return spelling, value if equals else None
    if word.startswith("-") and len(word) > 2:
        return word[:2], word[2:].removeprefix("=")
    return word, None


def _unknown_word(word: str, spelling: str, known: Mapping[str, Flag]) -> Mistake:
    if not word.startswith("-"):
        return Mistake(
            "command line",
            word,
            "expected a flag, or a known command as the first word",
            "a list must be one word: write it without spaces, or quote it",
        )
    from difflib import get_close_matches

    close = get_close_matches(spelling, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "see proxy-init --help"
    return Mistake("command line", spelling, "expected a flag of proxy-init", hint)


def is_flag(word: str, extra: Sequence[Flag] = ()) -> bool:
    """Whether `word` is one of the flags, alone or with its value."""
    return _spelling_and_value(word)[0] in {**_BY_SPELLING, **_by_spelling(extra)}


def merge(
    line: CommandLine, environ: Mapping[str, str], extra: Sequence[Flag] = ()
) -> Mapping[str, Setting]:
    """The settings in effect, by the flag's name. A flag overrides its variables.

    An empty flag, which real manifests pass, selects the default and overrides the variables, too.
    An empty variable counts as not set.
    """
    merged: dict[str, Setting] = {}
    for flag in (*FLAGS, *extra):
        setting = line.given.get(flag.name) or _of_variables(flag, environ)
        if setting and (setting.text.strip() or flag.may_be_empty):
            merged[flag.name] = setting
    return merged


def _of_variables(flag: Flag, environ: Mapping[str, str]) -> Setting | None:
    """The last of a flag's variables that is set."""
    found = [
        Setting(name, environ[name])
        for name in flag.variables.split()
        if environ.get(name, "").strip() and not is_service_link(name, environ[name])
    ]
    return replace(found[-1], overruled=tuple(found[:-1])) if found else None


def is_service_link(variable: str, text: str) -> bool:
    """Whether Kubernetes set the variable for a Service: a Service named envoy gives every pod in
    its namespace ENVOY_PORT=tcp://10.96.0.7:80."""
    return variable.endswith("_PORT") and text.strip().startswith(("tcp://", "udp://", "sctp://"))
