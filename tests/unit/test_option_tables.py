"""The options of an extension are found in either layout that iptables has had for them."""

from ctypes import POINTER as POINTER_TO
from ctypes import Structure, c_char_p, c_int, c_size_t, c_uint, cast, pointer
from typing import Any

import pytest

from proxy_init.kernel.legacy.libiptc import _options_of


class Older(Structure):
    """struct xt_option_entry of xtables.h until iptables 1.8.10; what python-iptables knows."""

    _fields_ = (
        ("name", c_char_p),
        ("type", c_int),
        *((name, c_uint) for name in ("id", "excl", "also", "flags", "ptroff")),
        ("size", c_size_t),
        ("min", c_uint),
        ("max", c_uint),
    )


class Newer(Structure):
    """The same since 1.8.11."""

    _fields_ = (*Older._fields_, ("base", c_uint))


@pytest.mark.parametrize("layout", [Older, Newer])
@pytest.mark.parametrize("names", [[], ["one"], ["one", "two"], ["one", "two", "three", "four"]])
@pytest.mark.parametrize("base", [0, 10, 36])
def test_every_option_is_found(layout: Any, names: list[str], base: int) -> None:
    extra = {"base": base} if layout is Newer else {}
    rows = [
        layout(name=name.encode(), id=number, max=2**32 - 1, **extra)
        for number, name in enumerate(names)
    ]
    table = (layout * (len(rows) + 1))(*rows)
    known = cast(pointer(table), POINTER_TO(Older))
    found = list(_options_of(known))
    assert [entry.name.decode() for entry in found] == names
    assert [entry.id for entry in found] == list(range(len(names)))
    assert all(entry.max == 2**32 - 1 for entry in found)
