"""`node`: the agent that redirects the pods of a node; `node pods`: what it knows of them."""

import json
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from ..config.command_line import split
from ..config.flags import Flag
from ..config.read import read_config
from ..config.values import BadValue, port
from ..errors import ApplyFailed
from ..kernel.system.host import Host
from ..log import logger
from .session import errors_logged, print_text

_MOST_SECONDS = 10


def _index(text: str) -> str:
    if not re.fullmatch("[0-9]{2}", text):
        raise BadValue(text, "two digits")
    return text


_NRI_SOCKET = Flag(
    "nri_socket",
    "--nri-socket",
    "",
    "/run/nri/nri.sock",
    "PATH",
    "The container runtime's socket for NRI.",
)
OPTIONS = (
    _NRI_SOCKET,
    Flag(
        "plugin_index",
        "--plugin-index",
        "",
        "10",
        "NN",
        "The agent's place among the runtime's plugins, which are called in this order.",
        check=_index,
    ),
    Flag(
        "http_port",
        "--http-port",
        "",
        "",
        "PORT",
        "Serve /metrics, /healthz and /readyz on this port.",
        check=port,
    ),
)
PODS_OPTIONS = (_NRI_SOCKET,)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the agent until a signal ends it. Raises BadCall or ApplyFailed."""
    config = read_config(words, environ, Host(), OPTIONS)
    logger.set_up(config.log_level, config.log_as_json)
    own = {name: setting.text.strip() for name, setting in config.own.items()}
    # Written so, no value can be taken for a flag.
    given = split(words, OPTIONS).given
    of_agent = {*own, "log_level", "log_as_json"}
    defaults = tuple(f"{s.source}={s.text}" for name, s in given.items() if name not in of_agent)

    from ..node import agent, desired
    from ..node.pod_config import pod_config

    pod_config((*desired.ISTIO_DEFAULTS, *defaults), {})  # what no pod could have, fails now
    options = agent.Options(
        own.get("nri_socket", _NRI_SOCKET.default),
        own.get("plugin_index", "10"),
        port(own["http_port"]) if "http_port" in own else None,
        defaults,
    )
    with errors_logged():
        agent.run(options)
    return 0


def list_pods(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print what the agent of this network namespace knows of its pods. Raises ApplyFailed."""
    config = read_config(words, environ, Host(), PODS_OPTIONS)
    path = config.own["nri_socket"].text if "nri_socket" in config.own else _NRI_SOCKET.default
    with errors_logged():
        pods = _ask(path)
        print_text(json.dumps(pods, indent=2) + "\n" if config.output == "json" else _table(pods))
    return 0


def _ask(nri_socket: str) -> list[dict[str, Any]]:
    from ..node.endpoints import pods_socket

    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_MOST_SECONDS)
            connection.connect(pods_socket(nri_socket))
            with connection.makefile("rb") as answer:
                pods: list[dict[str, Any]] = json.load(answer)
                return pods
    except OSError as error:
        raise ApplyFailed(
            f"no agent answers here for {nri_socket}: {error.strerror or error}; run this in the "
            "agent's container, with the --nri-socket that it has"
        ) from error


def _table(pods: Sequence[Mapping[str, Any]]) -> str:
    rows: list[Sequence[str]] = [
        ("NAMESPACE", "POD", "STATE", "BACKEND", "FAMILIES", "RULES", "FLAGS")
    ]
    for pod in pods:
        flags = pod["why"] or f"{shlex.join(pod['flags'])} ({pod['source']})"
        names = ("namespace", "pod", "state", "backend", "families", "rules")
        rows.append((*(str(pod[name]) for name in names), " ".join(flags.split())))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = (
        "  ".join([*(word.ljust(width) for word, width in zip(row, widths, strict=False)), row[6]])
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines)
