"""Stand-ins: what a library finds while it is imported, and that nothing is left of them."""

import importlib
import json.decoder
import sys

import pytest

from proxy_init.kernel.system.stand_ins import module, stand_ins


def test_they_are_imported_in_the_place_of_others_and_then_gone() -> None:
    before = dict(sys.modules)
    real = json.decoder
    stand_in = module("json.decoder", answer=42)
    with stand_ins({"json.decoder": stand_in, "no_such": module("no_such")}):
        assert importlib.import_module("json.decoder") is stand_in
        assert vars(json)["decoder"] is stand_in
        assert importlib.import_module("no_such").__name__ == "no_such"
    assert importlib.import_module("json.decoder") is real
    assert vars(json)["decoder"] is real
    assert sys.modules == before


def test_a_module_can_be_hidden() -> None:
    with stand_ins({"json": None}), pytest.raises(ModuleNotFoundError):
        importlib.import_module("json")
    assert importlib.import_module("json") is json


def test_they_are_gone_after_a_failure_too() -> None:
    before = dict(sys.modules)
    with pytest.raises(ZeroDivisionError), stand_ins({"json": module("json")}):
        raise ZeroDivisionError
    assert sys.modules == before
