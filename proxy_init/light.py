"""Small replacements for parts of the standard library that take long to load.

Each behaves like the class or function of that name in `contextlib`, `enum` or `functools`, as far
as it is used here; type checkers see the original. Those modules load each other, `collections`
and `operator`, which takes 23 million instructions; an empty Python takes 21 million. `os` loads
the abstract classes of collections, which takes 4.5 million.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os as os
    from contextlib import AbstractContextManager as AbstractContextManager
    from contextlib import ExitStack as ExitStack
    from contextlib import contextmanager as contextmanager
    from contextlib import suppress as suppress
    from enum import Enum as Enum
    from functools import cache as cache
    from functools import partial as partial
else:
    import posix
    from _functools import partial as partial

    class _Environ(dict):
        def __setitem__(self, name, value):
            posix.putenv(name, value)
            super().__setitem__(name, value)

    class _Os:
        """What `os` adds to `posix` in Python; what is missing here is taken from these two."""

        name = "posix"
        devnull = "/dev/null"
        fdopen = staticmethod(open)

        def __init__(self):
            decode = self.fsdecode
            self.environ = _Environ({decode(k): decode(v) for k, v in posix.environ.items()})
            self.getenv = self.environ.get

        def fsencode(self, name):
            how = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
            return name.encode(*how) if isinstance(name, str) else name

        def fsdecode(self, name):
            how = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
            return name.decode(*how) if isinstance(name, bytes) else name

        def __getattr__(self, name):
            found = getattr(posix, name, None)
            if found is None:
                import os

                found = getattr(os, name)
            setattr(self, name, found)
            return found

    # Where something has loaded it already, all share it: its environ, above all.
    os = sys.modules.get("os") or _Os()

    def cache(function):
        """Cache the results of a function by its arguments."""
        known = {}

        def cached(*arguments):
            if arguments not in known:
                known[arguments] = function(*arguments)
            return known[arguments]

        return cached

    class AbstractContextManager:
        """A base class of context managers; entering one returns itself."""

        def __class_getitem__(cls, item):
            return cls

        def __enter__(self):
            return self

    class suppress:  # noqa: N801  its name in contextlib
        """A context manager that suppresses some exceptions."""

        def __init__(self, *exceptions):
            self._exceptions = exceptions

        def __enter__(self):
            return None

        def __exit__(self, kind, value, traceback):
            return kind is not None and issubclass(kind, self._exceptions)

    def contextmanager(function):
        """Make a context manager from a generator that yields once."""

        def manager(*arguments, **named):
            return _Generated(function(*arguments, **named))

        manager.__doc__ = function.__doc__
        return manager

    class _Generated:
        def __init__(self, generator):
            self._generator = generator

        def __enter__(self):
            return next(self._generator)

        def __exit__(self, kind, value, traceback):
            if kind is None:
                for _ in self._generator:
                    raise RuntimeError("generator didn't stop")
                return False
            try:
                self._generator.throw(value)
            except StopIteration as stop:
                return stop is not value
            except BaseException as error:
                # Python turns a StopIteration that leaves a generator into a RuntimeError.
                if error is value or (error.__cause__ is value and type(value) is StopIteration):
                    return False
                raise
            raise RuntimeError("generator didn't stop after throw()")

    class ExitStack:
        """A context manager that exits others, which were entered in it, in reverse order."""

        def __init__(self):
            self._entered = []

        def enter_context(self, manager):
            result = manager.__enter__()
            self._entered.append(manager)
            return result

        def __enter__(self):
            return self

        def __exit__(self, kind, value, traceback):
            pending = value
            while self._entered:
                manager = self._entered.pop()
                try:
                    if manager.__exit__(pending and type(pending), pending, None):
                        pending = None
                except BaseException as error:
                    error.__context__ = error.__context__ or pending
                    pending = error
            if pending is not None and pending is not value:
                raise pending
            return value is not None and pending is None

    class _EnumType(type):
        """Makes a member of a class from each of its attributes that is not a method."""

        def __init__(cls, name, bases, namespace):
            super().__init__(name, bases, namespace)
            cls._members = {}
            for member, value in namespace.items():
                if not member.startswith("_") and not hasattr(value, "__get__"):
                    cls._members[value] = made = object.__new__(cls)
                    made.__dict__.update(name=member, value=value)
                    setattr(cls, member, made)

        def __call__(cls, value):
            if value not in cls._members:
                raise ValueError(f"{value!r} is not a valid {cls.__name__}")
            return cls._members[value]

        def __iter__(cls):
            return iter(cls._members.values())

        def __len__(cls):
            return len(cls._members)

        def __contains__(cls, member):
            return isinstance(member, cls)

    class Enum(metaclass=_EnumType):
        def __repr__(self):
            return f"{type(self).__name__}.{self.name}"

        def __reduce__(self):
            return type(self), (self.value,)
