"""Small modules that stand in for large ones while a library is imported.

Libraries import what they need for work that we never give them: to look for other libraries, to
run programs, to log. Loading all that would take longer than everything else that a run does.
"""

from __future__ import annotations

import sys
from types import ModuleType

from ...light import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


def module(name: str, **content: object) -> ModuleType:
    """A module that has only `content`."""
    made = ModuleType(name)
    vars(made).update(content)
    return made


@contextmanager
def stand_ins(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Let `modules` be what is imported by their names, while the block lasts; None: nothing is."""
    places: list[tuple[dict[str, Any], str, ModuleType | None]] = []
    for full_name, stand_in in modules.items():
        places.append((sys.modules, full_name, stand_in))
        package, _, name = full_name.rpartition(".")
        if package in sys.modules:  # which has its modules as attributes too
            places.append((vars(sys.modules[package]), name, stand_in))
    before = [place.get(name, place) for place, name, _ in places]
    for place, name, stand_in in places:
        place[name] = stand_in
    try:
        yield
    finally:
        for (place, name, _), real in zip(places, before, strict=True):
            if real is place:  # there was none
                place.pop(name, None)
            else:
                place[name] = real
