"""JSON that the program prints, read as its schema says."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator


def read_json(command: str, text: str) -> Any:
    """What a command's JSON says; it must be as the command's schema says."""
    value = json.loads(text)
    _schema(command).validate(value)
    return value


@cache
def _schema(command: str) -> Draft202012Validator:
    schema = json.loads(files("proxy_init").joinpath(f"schemas/{command}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
