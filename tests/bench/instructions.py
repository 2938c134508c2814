"""How many instructions a run executes: the same on a busy machine as on a quiet one.

Counted by valgrind, which counts what the processor does for the program, and not what the kernel
does. Python's hashes are different in each run, which makes half a percent.
"""

import re
from collections.abc import Callable, Sequence
from subprocess import CompletedProcess

from .cases import NFT, TPROXY, USUAL

DNS = ("--ipv6", "--redirect-dns", "--capture-all-dns")
COUNTED = {
    "dry run": (*USUAL, "-n"),
    "REDIRECT": USUAL,
    "TPROXY": TPROXY,
    "REDIRECT, nft": (*USUAL, *NFT),
    "TPROXY, nft": (*TPROXY, *NFT),
    "two families with DNS, nft": (*USUAL, *DNS, *NFT),
}
"""The flags of what is counted; where both families are in one process, two of them."""

Command = Sequence[str]
Done = CompletedProcess[str]


def instructions(command: Command, run: Callable[[Command], Done]) -> float:
    """Millions of instructions of a command, which `run` runs."""
    counting = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    result = run([*counting, *command])
    counted = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode or not counted:
        raise RuntimeError(f"{command} ended with {result.returncode}: {result.stderr}")
    return int(counted[1]) / 1e6
