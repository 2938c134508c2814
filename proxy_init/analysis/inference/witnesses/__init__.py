"""What the rules that are there say about each setting.

A setting is usually visible in several rules. Each rule is a witness of its own, so that a damaged
one does not mislead; `infer.py` tries what they say, the most frequent first.
"""

from collections.abc import Iterator, Sequence

from ....config.config import OLD_RULES
from ..difference import Present
from .destinations import destinations, outbound_ports
from .dns import dns
from .inbound import inbound
from .interfaces import interfaces
from .marks import families, marks
from .owners import owners
from .ports import ports
from .reading import EVERYWHERE, Choice, Reading, per_family

__all__ = ["EVERYWHERE", "Choice", "choices", "per_family"]


def choices(present: Present, ruleset: str) -> Iterator[Sequence[Choice]]:
    """For each setting, or settings that depend on each other: what it may be, the likeliest first,
    if the rules are of this rule set."""
    reading = Reading(present, ruleset == OLD_RULES)
    readers = (
        # Interfaces first: where -k names one twice, the networks of -i arrive on it twice.
        *(ports, owners, inbound, interfaces, destinations),
        *(outbound_ports, dns, marks, families),
    )
    for read in readers:
        yield from read(reading)
