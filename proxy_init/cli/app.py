"""The command tree, with Typer: what `--help` shows. The flags come from the one table of them."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Annotated

import typer

from ..flags import FLAGS, Takes

_EPILOG = (
    "A flag beats its variable, which beats the default; an empty text counts as not given. "
    "Switches may be written --flag, --flag=true or --flag=false. "
    "A list may stand in a file: -x @/etc/mesh/exclude."
)


def app() -> typer.Typer:
    """proxy-init and its commands."""
    tree = typer.Typer(add_completion=False, rich_markup_mode=None)
    tree.command(
        "proxy-init",
        help="Redirect a pod's traffic to its sidecar proxy. Takes the arguments of istio-init.",
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
        options_metavar="[FLAGS]",
    )(_with_flags())
    return tree


def _with_flags() -> Callable[..., None]:
    """A function whose parameters are the flags, for Typer to list."""

    def command(**given: object) -> None:
        raise AssertionError("flags.split reads the command line")

    parameters = []
    for flag in FLAGS:
        if flag.retired or flag.name == "help":
            continue
        spellings = flag.spellings.split()
        kind = str if flag.takes is Takes.VALUE else bool
        if flag.opposite:
            spellings[-1] += f"/{flag.opposite}"
        option = typer.Option(
            *spellings,
            help=flag.help,
            metavar=flag.metavar or None,
            envvar=flag.variables.split() or None,
            show_default=flag.default,
        )
        parameters.append(
            Parameter(
                flag.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
            )
        )
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
