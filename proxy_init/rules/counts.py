"""The packet and byte counters of rules."""

from ..frozen import Frozen


class Count(Frozen):
    """How many packets and bytes a rule has matched since it was added."""

    packets: int
    bytes: int
