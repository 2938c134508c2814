"""The command tree, with Typer. Flags come from the one table of them, and are split by its rules.

A plain call, the init container's, does not load this module: Typer takes 50 ms.
"""

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from ..config.command_line import split
from ..config.flags import FLAG_GROUPS, FLAGS, Flag, FlagKind
from . import apply, check, counters, describe, explain, graph, node, prove, status, validate

Run = Callable[[Sequence[str], Mapping[str, str]], int]

_HELP = (
    "Redirect a pod's traffic to its sidecar proxy. Without a command, write the rules that the "
    "flags ask for; the flags are those of istio-init."
)

_EPILOG = (
    "A flag takes precedence over its environment variable. "
    "Lists are comma separated, and may be in a file: -x @/etc/mesh/exclude. "
    "Switches may be written --flag, --flag=true or --flag=false."
)


def _clean(words: Sequence[str], environ: Mapping[str, str]) -> int:
    return apply.run([*words, "--cleanup-only"], environ)


class Example(NamedTuple):
    """A call, without the program's name, and what it does."""

    call: str
    does: str


class Command(NamedTuple):
    """What runs, what --help says of it, and the options that only it has."""

    run: Run
    sentence: str
    example: Example
    options: Sequence[Flag] = ()


EXAMPLES = (
    Example(
        "-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d 15090",
        "Redirect the traffic of this network namespace, as an init container does.",
    ),
    Example(
        "--dry-run -4 -p 15001 -z 15006 -u 1337 -i '*' -b '*'",
        "Print the IPv4 rules, without privileges and without touching anything.",
    ),
    Example(
        "explain -p 15001 -u 1337 -i '*' -x 10.0.0.0/8 --to 10.1.2.3:443",
        "Show where a connection goes, and which rule decides.",
    ),
)

COMMANDS: Mapping[str, Command] = {
    "clean": Command(
        _clean,
        "Remove our rules, and nothing else.",
        Example("clean", "Remove them, whatever flags they were made with."),
    ),
    "describe": Command(
        describe.run,
        "Say what is in this network namespace: whose rules, their flags, drift, problems.",
        Example("describe", "Needs no flag; exit 3 if the rules differ from those of any flags."),
    ),
    "status": Command(
        status.run,
        "Compare the rules in the kernel with the flags.",
        Example(
            "status -z 15006 -u 1337 -i '*' -b '*'", "Print the difference; exit 3 if there is one."
        ),
    ),
    "validate": Command(
        validate.run,
        "Send probes through the rules in the kernel.",
        Example("validate -z 15006 -u 1337 -i '*' -b '*'", "Exit 126 if a probe goes astray."),
    ),
    "explain": Command(
        explain.run,
        "Walk one packet through the rules, and show why it goes where.",
        Example(
            "explain --live -z 15006 -b '*' --direction in --to 192.0.2.2:8080",
            "Walk a packet from outside through the rules in the kernel.",
        ),
        explain.OPTIONS,
    ),
    "graph": Command(
        graph.run,
        "Draw the chains and their rules.",
        Example(
            "graph -z 15006 -u 1337 -i '*' -b '*' --format mermaid",
            "Draw them for a Markdown page.",
        ),
        graph.OPTIONS,
    ),
    "counters": Command(
        counters.run,
        "Show the packets and bytes that each rule has counted.",
        Example(
            "counters -z 15006 -u 1337 -i '*' -b '*' --watch 2", "Show every 2 s what has changed."
        ),
        counters.OPTIONS,
    ),
    "check": Command(
        check.run,
        "Check whether this node can run these flags.",
        Example(
            "check -z 15006 -u 1337 -i '*' -b '*'", "Touch nothing; exit 4 if something is missing."
        ),
    ),
    "prove": Command(
        prove.run,
        "Prove for all packets that the rules do what the flags say.",
        Example(
            "prove -u 1337 -i '*' --against \"-u 1337 -i '*' -x 10.0.0.0/8\"",
            "Show which packets two sets of flags treat differently.",
        ),
        prove.OPTIONS,
    ),
    "node": Command(
        node.run,
        "Redirect the pods of a node, as its container runtime starts them.",
        Example(
            "node --http-port 15014 -x 10.0.0.1/32",
            "Serve the runtime; -x is for pods whose annotations name no networks of their own.",
        ),
        node.OPTIONS,
    ),
    "node pods": Command(
        node.list_pods,
        "List the pods of the node, with what the agent knows of them.",
        Example("node pods -O json", "Print it for programs."),
        node.PODS_OPTIONS,
    ),
}


def run(words: Sequence[str]) -> int:
    """Run a command line that begins with a command's name, or asks for help or completion."""
    gc.enable()  # a plain call does without; a command may run for long
    if " ".join(words[:2]) in COMMANDS:
        words = [" ".join(words[:2]), *words[2:]]
    tree = _tree()
    try:
        status: int | None = tree(list(words), prog_name="proxy-init", standalone_mode=False)
    except SystemExit as end:  # how Typer ends what it does for shell completion
        return end.code if isinstance(end.code, int) else 0
    return status or 0


def flag_groups(command: str = "") -> Iterator[tuple[str, Sequence[Flag]]]:
    """What a command takes, by heading: its own options, then the flags."""
    if command and COMMANDS[command].options:
        yield f"Options of {command}", COMMANDS[command].options
    yield from FLAG_GROUPS.items()


class _FlagsCommand(TyperCommand):
    """A command that leaves its words to `command_line.split`; Typer lists the flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "help" in split(args, COMMANDS[self.name or ""].options).given:
            return super().parse_args(ctx, ["--help"])
        ctx.obj = args
        return []

    def format_options(self, ctx: Any, formatter: Any) -> None:
        name = self.name or ""
        _write_examples(formatter, "Example", COMMANDS[name].example)
        _write_flags(formatter, name, self.get_params(ctx), ctx)


class _Program(TyperGroup):
    """The program without a command: Typer lists the commands and the flags."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write_examples(formatter, "Examples", *EXAMPLES)
        _write_flags(formatter, "", self.get_params(ctx), ctx)


def _write_examples(formatter: Any, heading: str, *examples: Example) -> None:
    with formatter.section(heading):
        for example in examples:
            formatter.write_text(f"proxy-init {example.call}")
            with formatter.indentation():
                formatter.write_text(example.does)


def _write_flags(formatter: Any, command: str, params: Sequence[Any], ctx: Any) -> None:
    """List the flags by heading, which Typer itself does only in boxes of rich."""
    rows = {param.name: param.get_help_record(ctx) for param in params}
    for heading, flags in flag_groups(command):
        with formatter.section(heading):
            formatter.write_dl([rows.pop(flag.name, (_spelled(flag), "")) for flag in flags])
    if rows:  # what is not from the table: Typer's own
        with formatter.section("Shell completion"):
            formatter.write_dl(list(rows.values()))


def _spelled(flag: Flag) -> str:
    return ", ".join(flag.spellings.split())


def _tree() -> typer.Typer:
    tree = typer.Typer(rich_markup_mode=None)
    settings = {"help_option_names": ["-h", "--help"]}
    tree.callback(
        cls=_Program,
        invoke_without_command=True,
        help=_HELP,
        epilog=_EPILOG,
        options_metavar="[COMMAND]",  # comes first here
        subcommand_metavar="[FLAGS]",
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
        if not flag.retired and flag.name != "help":  # Typer has a --help of its own
            kind = bool if flag.kind is FlagKind.SWITCH else str
            parameters.append(
                Parameter(
                    flag.name,
                    Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[kind, _option(flag)],
                )
            )
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _option(flag: Flag) -> Any:
    spellings = flag.spellings.split()
    if flag.opposite:
        spellings[-1] += f"/{flag.opposite}"
    default = f" [default: {flag.default}]" if flag.default not in ("", "off") else ""
    return typer.Option(
        *spellings,
        help=flag.help + default,
        metavar=flag.metavar or None,
        envvar=flag.variables.split() or None,
        show_default=False,
        autocompletion=(lambda: flag.words) if flag.words else None,
    )
