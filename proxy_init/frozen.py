"""Frozen values like those of `dataclasses.dataclass(frozen=True)`, without the start-up cost.

`dataclasses` imports `inspect`, and generates and compiles seven methods for each class. For the
fifty classes of a plain call that took 25 ms, half of the delay that a run adds to the pod's start.
Here all classes inherit their methods: setting them on each takes half as much again as making it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, dataclass_transform

    Value = TypeVar("Value")
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True)
class Frozen:
    """The base of a frozen value. The annotated names of its class are its fields, in this order.

    A value assigned to such a name is the default of the field. Methods that the class defines
    itself are kept.
    """

    if not TYPE_CHECKING:

        def __init_subclass__(cls):
            names = tuple(cls.__annotations__)
            cls.__match_args__ = names
            cls._defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}

        def __init__(self, *values, **named):
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

        def __eq__(self, other):
            if type(self) is not type(other):
                return NotImplemented
            return self.__dict__ == other.__dict__

        def __hash__(self):
            return hash(tuple(self.__dict__[name] for name in self.__match_args__))

        def __repr__(self):
            fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.__match_args__)
            return f"{type(self).__qualname__}({fields})"

        def __setattr__(self, name, value=None):
            raise AttributeError(f"{name}: a {type(self).__name__} is frozen")

        __delattr__ = __setattr__


def replace(value: Value, **changes: object) -> Value:
    """A copy of `value` with some fields changed; `value` may also be a dataclass."""
    names: tuple[str, ...] = getattr(value, "__match_args__")  # noqa: B009  # no type declares it
    return type(value)(**{**{name: getattr(value, name) for name in names}, **changes})
