"""Frozen values like those of `dataclasses.dataclass(frozen=True)`, without the start-up cost.

`dataclasses` imports `inspect`, and generates and compiles seven methods for each class. For the
fifty classes of a plain call that took 25 ms, half of the delay that a run adds to the pod's start.
Here all classes share their methods.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, dataclass_transform

    Class = TypeVar("Class")
    Value = TypeVar("Value")
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True)
def frozen(cls: type[Class]) -> type[Class]:
    """Make `cls` a frozen value. Its annotated names are its fields, in this order.

    A value assigned to such a name is the default of the field. Methods that the class defines
    itself are kept.
    """
    names = tuple(cls.__annotations__)
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    shared = {"__match_args__": names, "_defaults": defaults, **_METHODS}
    for name, member in shared.items():
        # Python itself gives a class that defines __eq__ a __hash__ of None.
        if cls.__dict__.get(name) is None:
            setattr(cls, name, member)
    return cls


def replace(value: Value, **changes: object) -> Value:
    """A copy of `value` with some fields changed; `value` may also be a dataclass."""
    names: tuple[str, ...] = getattr(value, "__match_args__")  # noqa: B009  # no type declares it
    return type(value)(**{**{name: getattr(value, name) for name in names}, **changes})


def _init(self, *values, **named):  # type: ignore[no-untyped-def]
    names = self.__match_args__
    fields = self.__dict__
    if len(values) == len(names) and not named:
        fields.update(zip(names, values))  # noqa: B905  checked above
        return
    fields.update(self._defaults)
    fields.update(zip(names, values))  # noqa: B905  checked below
    fields.update(named)
    if len(values) > len(names) or set(names) != fields.keys():
        raise TypeError(f"{type(self).__name__} has the fields {', '.join(names)}")


def _eq(self, other):  # type: ignore[no-untyped-def]
    if type(self) is not type(other):
        return NotImplemented
    return self.__dict__ == other.__dict__


def _hash(self):  # type: ignore[no-untyped-def]
    return hash(tuple(self.__dict__[name] for name in self.__match_args__))


def _repr(self):  # type: ignore[no-untyped-def]
    fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({fields})"


def _setattr(self, name, value=None):  # type: ignore[no-untyped-def]
    raise AttributeError(f"{name}: a {type(self).__name__} is frozen")


_METHODS = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _setattr,
    "__delattr__": _setattr,
}
