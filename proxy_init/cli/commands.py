"""The command tree, with Typer. Flags come from the one table of them, and are split by its rules.

A plain call, the init container's, does not load this module: Typer takes 50 ms.
"""

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from ..config.command_line import split
from ..config.flags import FLAGS, Flag, FlagKind
from . import apply, check, counters, explain, graph, prove, status, validate

Run = Callable[[Sequence[str], Mapping[str, str]], int]

_EPILOG = (
    "A flag beats its variable, which beats the default; an empty text counts as not given. "
    "Switches may be written --flag, --flag=true or --flag=false. "
    "A list may stand in a file: -x @/etc/mesh/exclude."
)


def _clean(words: Sequence[str], environ: Mapping[str, str]) -> int:
    return apply.run([*words, "--cleanup-only"], environ)


class Command(NamedTuple):
    """What runs, the sentence that --help says of it, and the options that only it has."""

    run: Run
    sentence: str
    options: Sequence[Flag] = ()


COMMANDS: Mapping[str, Command] = {
    "clean": Command(_clean, "Remove everything of ours, nothing else."),
    "status": Command(status.run, "Compare the kernel with what the flags ask for."),
    "validate": Command(validate.run, "Send real probes through the kernel's rules."),
    "explain": Command(
        explain.run, "Walk one packet through the rules, and say why.", explain.OPTIONS
    ),
    "graph": Command(graph.run, "Draw the chains.", graph.OPTIONS),
    "counters": Command(
        counters.run, "Live packet counts, beside each rule's reason.", counters.OPTIONS
    ),
    "check": Command(check.run, "Would this work on this node? Touches nothing."),
    "prove": Command(
        prove.run,
        "Show for all packets, not for samples, that the rules keep their promises.",
        prove.OPTIONS,
    ),
}


def run(words: Sequence[str]) -> int:
    """Run a command line that begins with a command's name, or asks for help."""
    gc.enable()  # a plain call does without; a command may run for long
    status: int | None = _tree()(list(words), prog_name="proxy-init", standalone_mode=False)
    return status or 0


class _FlagsCommand(TyperCommand):
    """A command that leaves its words to `flags.split`; Typer lists the flags for --help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "help" in split(args, COMMANDS[self.name or ""].options).given:
            return super().parse_args(ctx, ["--help"])
        ctx.obj = args
        return []


def _tree() -> typer.Typer:
    tree = typer.Typer(add_completion=False, rich_markup_mode=None, epilog=_EPILOG)
    settings = {"help_option_names": ["-h", "--help"]}
    tree.callback(
        invoke_without_command=True,
        help="Redirect a pod's traffic to its sidecar proxy. FlagKind the arguments of istio-init.",
        options_metavar="[FLAGS]",
        context_settings=settings,
    )(_with_flags(None, FLAGS))
    for name, command in COMMANDS.items():
        tree.command(
            name,
            cls=_FlagsCommand,
            help=command.sentence,
            epilog=_EPILOG,
            options_metavar="[FLAGS]",
            context_settings=settings,
        )(_with_flags(command.run, (*command.options, *FLAGS)))
    return tree


def _with_flags(command: Run | None, flags: Sequence[Flag]) -> Callable[..., int]:
    """A function whose parameters are `flags`, for Typer to list, and which runs `command`."""

    def call(ctx: typer.Context, **_: object) -> int:
        return command(ctx.obj, os.environ) if command else 0

    parameters = [Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for flag in flags:
        if flag.retired or flag.name == "help":
            continue
        spellings = flag.spellings.split()
        if flag.opposite:
            spellings[-1] += f"/{flag.opposite}"
        option = typer.Option(
            *spellings,
            help=f"{flag.help} Default: {flag.default}." if flag.default else flag.help,
            metavar=flag.metavar or None,
            envvar=flag.variables.split() or None,
            show_default=False,
        )
        kind = str if flag.kind is FlagKind.VALUE else bool
        parameters.append(
            Parameter(
                flag.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
            )
        )
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
