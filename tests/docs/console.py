"""The console examples of a page, and the place where they run.

A fenced block of the language `console` holds commands, each on a line that begins with `$ `, and
the output of each below it. A command goes on while its lines end in a backslash. In the output, a
line `…` stands for any lines that are left out, and `…` within a line for any text. A block behind
`<!-- not run -->` is not run.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pods import namespace

ROOT = Path(__file__).resolve().parents[2]

BLOCK = re.compile(r"(<!-- not run -->\s*)?^```console\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.M)

# What a page's commands find: a /run of their own, with its lock file and names of namespaces, and
# the resolv.conf of a pod. It lasts until its standard input ends.
PLACE = """
mount -t tmpfs tmpfs /run
mkdir /run/netns
servers=$(realpath /etc/resolv.conf)
mkdir -p "${servers%/*}"
[ -e "$servers" ] || : >"$servers"
mount --bind "$1/resolv.conf" "$servers"
ip link set lo up
echo ready
exec cat
"""
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
SECONDS = 60


@dataclass(frozen=True)
class Example:
    """A command, and what a page says that it prints."""

    command: str
    output: str

    @property
    def privileged(self) -> bool:
        """Whether it is for root; the others run without any capability."""
        return re.search(r"\bsudo\b", self.command) is not None


def examples(text: str) -> list[Example]:
    """The examples of a page that are to be run."""
    found = []
    for not_run, block in BLOCK.findall(text):
        if not not_run:
            before, *parts = COMMAND.split(block)
            assert not before.strip(), f"a console block begins with output: {before!r}"
            pairs = zip(parts[::2], parts[1::2], strict=True)
            found += [Example(command, output) for command, output in pairs]
    return found


def agrees(shown: str, printed: str) -> bool:
    """Whether a command printed what a page shows. Times are compared by their form only."""
    lines = []
    for line in _timeless(shown).splitlines():
        any_text = ".*".join(re.escape(part) for part in line.rstrip().split("…"))
        lines.append(r"(?:.*\n)*?" if line.strip() == "…" else rf"{any_text}\n")
    trimmed = "".join(f"{line.rstrip()}\n" for line in _timeless(printed).splitlines())
    return re.fullmatch("".join(lines), trimmed) is not None


def _timeless(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME", text)
    return re.sub(r"\bmilliseconds=\d+", "milliseconds=N", text)


@contextmanager
def place(directory: Path) -> Iterator[list[str]]:
    """A fresh network namespace with lo up, for the commands of one page; `directory` is theirs.

    Gives the words to put before a command.
    """
    programs = {
        "proxy-init": f'exec {sys.executable} -I {ROOT}/proxy_init/__main__.py "$@"',
        "sudo": 'exec "$@"',
    }
    (directory / "bin").mkdir()
    (directory / "home").mkdir()
    for name, line in programs.items():
        (directory / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (directory / "bin" / name).chmod(0o755)
    (directory / "resolv.conf").write_text("nameserver 10.96.0.10\n")
    with namespace.namespace("docs") as name:
        command = ["unshare", "--mount", "sh", "-e", "-c", PLACE, "sh", str(directory)]
        holder = subprocess.Popen(
            [*namespace.command_in(name), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with holder:
            assert holder.stdout
            assert holder.stdout.readline() == "ready\n"
            yield [
                "nsenter",
                f"--target={holder.pid}",
                "--net",
                "--mount",
                f"--wdns={directory}/home",
            ]


def run(before: list[str], directory: Path, example: Example) -> tuple[int, str, str]:
    """The exit status of an example, its output, and its log."""
    environ = {
        "PATH": f"{directory}/bin:{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin",
        "HOME": f"{directory}/home",
        "LANG": "C.UTF-8",
    }
    user = () if example.privileged else WITHOUT_CAPABILITIES
    result = subprocess.run(
        [*before, "timeout", "--kill-after=5", str(SECONDS), *user, "bash", "-c", example.command],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr
