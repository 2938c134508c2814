"""How the cost of `prove` grows with the length of a list of CIDRs, whatever the CIDRs look like.

    .venv/bin/python -m tests.bench.growth [LENGTH]...

Prints CPU seconds and peak memory by length, and the growth from one length to the next as a power
of the length: 1.1 is n log n at these lengths, 2 is n squared.
"""

import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from math import log
from pathlib import Path

from .timer import measured

LENGTHS = (1000, 10_000, 40_000)
FLAGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-b", "*", "--no-ipv6")
_TEN = 10 << 24


def _cidr(address: int, length: int) -> str:
    address = address >> 32 - length << 32 - length
    return f"{'.'.join(str(byte) for byte in address.to_bytes(4))}/{length}"


def disjoint(count: int) -> Iterator[str]:
    """Every second /24."""
    return (_cidr(_TEN + (number << 9), 24) for number in range(count))


def pairs(count: int) -> Iterator[str]:
    """A network, and then one inside it."""
    return (_cidr(_TEN + (number // 2 << 10), 23 + number % 2) for number in range(count))


def nested(count: int) -> Iterator[str]:
    """Networks inside one another, seventeen deep, in any order."""
    rng = random.Random(7)
    addresses = (_TEN + rng.getrandbits(24) for _ in range(count))
    found = [_cidr(address, length) for address in addresses for length in range(16, 33)]
    unique = [*dict.fromkeys(found)][:count]
    rng.shuffle(unique)
    return iter(unique)


def overlapping(count: int) -> Iterator[str]:
    """Networks of any length anywhere."""
    rng = random.Random(7)
    lengths = (12, 16, 20, 22, 24, 26, 28, 30, 32)
    found: dict[str, None] = {}
    while len(found) < count:
        found[_cidr(rng.getrandbits(32), rng.choice(lengths))] = None
    return iter(found)


SHAPES: Sequence[Callable[[int], Iterator[str]]] = (disjoint, pairs, nested, overlapping)
USES = {"-i": ("-i",), "-x": ("-i", "*", "-x"), "-i and -k": ("-k", "tap0,tap1", "-i")}


def main() -> None:
    """Measure each use of a list, of each shape, as a list and as a tree."""
    lengths = [int(word) for word in sys.argv[1:]] or LENGTHS
    command = (sys.executable, "-m", "proxy_init", "prove", *FLAGS)
    with tempfile.TemporaryDirectory() as directory:
        for (use, flags), how, shape in product(USES.items(), ("never", "always"), SHAPES):
            costs = []
            for length in lengths:
                path = Path(directory) / "cidrs"
                path.write_text("\n".join(shape(length)))
                cost = measured([*command, *flags, f"@{path}", "--cidr-tree", how])
                assert cost["status"] == 0, (use, shape.__name__, length, cost)
                costs.append(cost)
            spent = [cost["cpu_milliseconds"] / 1e3 for cost in costs]
            steps = zip(pairwise(spent), pairwise(lengths), strict=True)
            powers = (
                log(after / one) / log(longer / short) for (one, after), (short, longer) in steps
            )
            print(
                f"{use:9} {'list' if how == 'never' else 'tree'}  {shape.__name__:11}",
                *(f"{length:6,}: {s:5.2f} s" for length, s in zip(lengths, spent, strict=True)),
                f"{max(cost['peak_mib'] for cost in costs):4.0f} MiB",
                "growth",
                *(f"{power:.2f}" for power in powers),
                flush=True,
            )


if __name__ == "__main__":
    main()
