"""What this process may do, and handing that down to the programs that it runs.

Sources: linux/capability.h, man 7 capabilities, man 2 capset, man 2 prctl.
"""

import ctypes
import struct
from collections.abc import Sequence

from .proc import read

_NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_MODULE": 16}
_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2


def missing_capabilities(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the capabilities that this process does not have in effect."""
    try:
        status = read("/proc/self/status")
    except OSError:
        return ()
    effective = next(
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")
    )
    return tuple(name for name in names if not effective >> _NUMBERS[name] & 1)


def hand_down(name: str) -> None:
    """Let programs that we run have a capability too, which only root's get without asking.

    Who has not got it hears of that when it is needed.
    """
    number = _NUMBERS[name]
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    libc.capget(header, sets)
    words = list(struct.unpack("=6I", sets.raw))
    words[2] |= 1 << number  # the inheritable ones, of the lower 32
    libc.capset(header, struct.pack("=6I", *words))
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
