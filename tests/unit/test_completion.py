"""Shell completion: Typer's protocol, tried with bash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Call

PROGRAM = Path(sys.executable).with_name("proxy-init")

# The script that a user sources, and what bash does when the Tab key is pressed.
COMPLETE = """
source <(proxy-init --show-completion)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p proxy-init | sed 's/.* -F \\([^ ]*\\) .*/\\1/') proxy-init
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str) -> set[str]:
    """What bash offers for the last of these words."""
    result = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", "proxy-init", *words],
        env={"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["c"], {"clean", "check", "counters"}),
        (["--dr"], {"--dry-run", "--drop-invalid"}),
        (["-p", "15001", "-m", ""], {"REDIRECT", "TPROXY", "NONE"}),
        (["graph", "--for"], {"--format", "--force-apply", "--force-iptables-binary"}),
        (["graph", "-i", "*", "--format", "m"], {"mermaid"}),
        (["explain", "--state", ""], {"NEW", "ESTABLISHED", "RELATED", "INVALID"}),
        (["status", "--format"], set()),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_the_shell_completes_commands_flags_and_their_words(
    words: list[str], offered: set[str]
) -> None:
    assert completed(*words) == offered


def test_a_call_with_arguments_is_never_taken_for_the_shell_s(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    # A pod's variables must not keep its rules from being applied.
    assert call("-n", "-4", "-i", "*", "--no-ipv6", _PROXY_INIT_COMPLETE="complete_bash") == 0
    assert "ISTIO_OUTPUT" in capsys.readouterr().out
