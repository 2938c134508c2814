"""What rules have counted."""

from typing import NamedTuple


class Count(NamedTuple):
    """How many packets and bytes a rule has matched since it was put there."""

    packets: int
    bytes: int
