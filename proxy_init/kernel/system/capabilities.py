"""What this process may do. Sources: linux/capability.h, man 7 capabilities."""

from __future__ import annotations

from .proc import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_MODULE": 16}


def missing_capabilities(names: Sequence[str]) -> tuple[str, ...]:
    """The capabilities among these that this process lacks in its effective set."""
    try:
        status = read("/proc/self/status")
    except OSError:
        return ()
    effective = next(
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")
    )
    return tuple(name for name in names if not effective >> _NUMBERS[name] & 1)
