"""Writes the generated parts of docs/reference: `.venv/bin/python -m scripts.reference`.

They stand between `<!-- generated: SUBJECT -->` and `<!-- end -->`, and come from the table of
flags, the table of commands and the JSON schemas. All else in those pages is written by hand.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from proxy_init.cli.commands import COMMANDS
from proxy_init.config.flags import ADVISORY, FLAG_GROUPS, FLAGS, Flag

PAGES = Path(__file__).resolve().parents[1] / "docs" / "reference"
_PART = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.S)

Row = Sequence[str]


def refreshed(page: str) -> str:
    """A page's text with its generated parts as they should be.

    Raises LookupError for a subject that there is nothing about.
    """
    return _PART.sub(lambda part: f"{part[1]}\n{_text(part[2])}\n\n{part[3]}", page)


def subjects(page: str) -> list[str]:
    """What the generated parts of a page are about."""
    return [part[2] for part in _PART.finditer(page)]


def _text(subject: str) -> str:
    kind, _, name = subject.partition(" ")
    match kind:
        case "flags":
            return "\n\n".join(map(_group, FLAG_GROUPS))
        case "variables":
            return _variables()
        case "command":
            return "\n\n".join(_command(name))
        case "schema":
            return "\n\n".join(_schema(name))
    raise LookupError(f"there is nothing about {subject!r}")


def _group(heading: str) -> str:
    rows = []
    for flag in FLAG_GROUPS[heading]:
        variables = ", ".join(map(_code, flag.variables.split()))
        rows.append((_spelled(flag), variables, _default(flag), _meaning(flag)))
    return f"## {heading}\n\n" + _table(("Flag", "Variable", "Default", "Meaning"), rows)


def _variables() -> str:
    rows = []
    for flag in FLAGS:
        unread = "warning" if flag.name in ADVISORY else "error"
        for variable in flag.variables.split():
            spelling = _code(flag.spellings.split()[0])
            rows.append((_code(variable), spelling, unread, _meaning(flag)))
    return _table(("Variable", "Flag", "If it cannot be read", "Meaning"), sorted(rows))


def _command(name: str) -> Iterator[str]:
    command = COMMANDS[name]
    yield command.sentence
    yield f"```sh\nproxy-init {command.example.call}\n```"
    yield command.example.does
    if command.options:
        rows = ((_spelled(flag), _default(flag), _meaning(flag)) for flag in command.options)
        yield _table(("Option", "Default", "Meaning"), rows)


def _spelled(flag: Flag) -> str:
    value = f" {flag.metavar}" if flag.metavar and not flag.words else ""
    *first, last = flag.spellings.split()
    return ", ".join(map(_code, (*first, last + value, *flag.opposite.split())))


def _default(flag: Flag) -> str:
    return "" if flag.default in ("", "off") else _plain(flag.default)


def _meaning(flag: Flag) -> str:
    if flag.words:
        return f"{_plain(flag.help)} One of {', '.join(map(_code, flag.words))}."
    return _plain(flag.help)


def _schema(name: str) -> Iterator[str]:
    schema = json.loads(files("proxy_init").joinpath(f"schemas/{name}.json").read_text())
    yield _plain(schema["description"])
    forms = schema.get("oneOf", [schema])
    for form in forms:
        if form is not schema and "description" in form:
            yield _plain(form["description"])
        yield _table(("Field", "Type", "Meaning"), _fields(form, schema.get("$defs", {})))


def _fields(node: Mapping[str, Any], shared: Mapping[str, Any], before: str = "") -> Iterator[Row]:
    """The fields of an object, and those of the objects in it."""
    named = dict(node.get("properties", {}))
    if isinstance(node.get("additionalProperties"), dict):
        named["*"] = node["additionalProperties"]
    for name, member in named.items():
        field = _resolved(member, shared)
        yield _code(before + name), _type(field, shared), _plain(field.get("description", ""))
        inner = _resolved(field.get("items", field), shared)
        suffix = "[]." if "items" in field else "."
        yield from _fields(inner, shared, before + name + suffix)


def _resolved(node: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**shared.get(node.get("$ref", "").rpartition("/")[2], {}), **node}


def _type(node: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(_type(_resolved(each, shared), shared) for each in node["anyOf"])
    if "enum" in node:
        return ", ".join(_code(json.dumps(each)) for each in node["enum"])
    if "items" in node:
        return f"array of {_type(_resolved(node['items'], shared), shared)}"
    types = node["type"]
    return " or ".join(types) if isinstance(types, list) else str(types)


def _table(columns: Row, rows: Iterable[Row]) -> str:
    """A table of Markdown, without the columns in which there is nothing."""
    filled = list(rows)
    kept = [i for i, _ in enumerate(columns) if any(row[i] for row in filled)]
    lines = (columns, ["---"] * len(columns), *filled)
    return "\n".join(f"| {' | '.join(line[i] for i in kept)} |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`"


def _plain(text: str) -> str:
    return re.sub(r"([*_|<])", r"\\\1", text)


if __name__ == "__main__":
    for page in PAGES.glob("*.md"):
        page.write_text(refreshed(page.read_text()))
