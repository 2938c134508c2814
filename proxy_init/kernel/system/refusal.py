"""The error for a refusal of the kernel."""

import errno

from ...light import os

NO_SUCH_TABLE = (
    *(errno.ENOENT, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT),
    errno.EOPNOTSUPP,
)
"""What the kernel says of what it has no support for."""


class KernelRefused(Exception):
    """A call failed: what was tried, the errno `number`, and a remedy if one is certain."""

    def __init__(self, what: str, number: int, remedy: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.number = number
        self.remedy = remedy
