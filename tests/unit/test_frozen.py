"""Frozen values: what everybody knows of frozen dataclasses holds for ours."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from proxy_init.frozen import Frozen, replace


class Point(Frozen):
    """A value with a default, and something that is the same for all."""

    x: int
    y: int = 0
    kind = "point"


class Other(Frozen):
    """The same fields."""

    x: int
    y: int = 0


class Nothing(Frozen):
    """No fields at all."""


def test_values_of_one_class_with_equal_fields_are_equal() -> None:
    assert Point(1) == Point(1, 0) == Point(y=0, x=1)
    assert hash(Point(1)) == hash(Point(y=0, x=1))
    assert Point(1) != Point(1, 2)
    assert Point(1) != Other(1)  # type: ignore[comparison-overlap]
    assert Nothing() == Nothing()
    assert len({Point(1), Point(1, 0), Other(1)}) == 2


def test_nothing_can_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="x: a Point is frozen"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="z: a Point is frozen"):
        point.z = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="x: a Point is frozen"):
        del point.x
    assert point == Point(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Point(),  # type: ignore[call-arg]
        lambda: Point(1, 2, 3),  # type: ignore[call-arg]
        lambda: Point(1, z=3),  # type: ignore[call-arg]
        lambda: Point(z=3),  # type: ignore[call-arg]
        lambda: Point(1, kind="line"),  # type: ignore[call-arg]
        lambda: replace(Point(1), z=3),
    ],
)
def test_fields_that_do_not_fit_are_refused(call: Callable[[], Point]) -> None:
    with pytest.raises(TypeError, match="Point has the fields x, y"):
        call()


def test_a_dataclass_is_replaced_alike() -> None:
    @dataclass(frozen=True, slots=True)
    class Line:
        start: Point
        end: Point

    assert replace(Line(Point(1), Point(2)), end=Point(3)) == Line(Point(1), Point(3))


def test_the_rest_of_a_value() -> None:
    assert replace(Point(1), y=5) == Point(1, 5)
    assert repr(Point(1)) == "Point(x=1, y=0)"
    assert Point.kind == Point(1).kind == "point"
    copied = pickle.loads(pickle.dumps(Point(1, 2)))
    assert copied == Point(1, 2) and copied is not Point(1, 2)
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)
        case _:
            pytest.fail("not matched")
