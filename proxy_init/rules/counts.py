"""The packet and byte counters of rules."""

from typing import NamedTuple


class Count(NamedTuple):
    """How many packets and bytes a rule has matched since it was added."""

    packets: int
    bytes: int
