"""The packet and byte counters of rules."""

from ..frozen import frozen


@frozen
class Count:
    """How many packets and bytes a rule has matched since it was added."""

    packets: int
    bytes: int
