"""`ctypes`, which asks `os` for little more than its name, without what `os` loads."""

from ...light import os
from .stand_ins import stand_ins

with stand_ins({"os": os}):
    import ctypes as ctypes
