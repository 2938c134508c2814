"""docs/reference lists what the program has: flags, variables, commands, JSON, exit status."""

import re
from importlib.resources import files

import pytest

from proxy_init import errors
from proxy_init.cli import prove, status
from proxy_init.cli.commands import COMMANDS
from proxy_init.config.flags import FLAGS
from scripts.reference import PAGES, refreshed, subjects
from tests.unit.fakes import VARIABLES_WITHOUT_A_FLAG

SCHEMAS = [file.name for file in files("proxy_init").joinpath("schemas").iterdir()]


def page(name: str) -> str:
    return (PAGES / name).read_text()


@pytest.mark.parametrize("name", sorted(path.name for path in PAGES.glob("*.md")))
def test_the_generated_parts_of_a_page_are_fresh(name: str) -> None:
    assert refreshed(page(name)) == page(name), "run .venv/bin/python -m scripts.reference"


def test_every_flag_with_its_variables_is_in_the_reference() -> None:
    assert subjects(page("flags.md")) == ["flags"]
    rows = [line.split("|") for line in page("flags.md").splitlines() if line.startswith("| `-")]
    spelled = [re.findall(r"`(-[\w-]+)", row[1]) for row in rows]
    assert spelled == [f"{flag.spellings} {flag.opposite}".split() for flag in FLAGS]
    for flag, row in zip(FLAGS, rows, strict=True):
        assert (
            flag.variables == " ".join(re.findall(r"`([A-Z0-9_]+)`", row[2])) or not flag.variables
        )


def test_every_variable_is_in_the_reference() -> None:
    assert subjects(page("variables.md")) == ["variables"]
    listed = re.findall(r"^\| `(\w+)`", page("variables.md"), flags=re.M)
    of_flags = [variable for flag in FLAGS for variable in flag.variables.split()]
    assert sorted(listed[: len(of_flags)]) == sorted(of_flags)
    assert set(listed[len(of_flags) :]) >= set(VARIABLES_WITHOUT_A_FLAG)


def test_every_command_is_in_the_reference() -> None:
    assert subjects(page("commands.md")) == [f"command {name}" for name in COMMANDS]
    headings = re.findall(r"^## ([\w ]+)$", page("commands.md"), flags=re.M)
    assert headings == ["apply", *COMMANDS]


def test_every_schema_is_in_the_reference() -> None:
    names = sorted(name.removesuffix(".json") for name in SCHEMAS)
    assert subjects(page("json.md")) == [f"schema {name}" for name in names]


def test_every_field_of_the_json_output_is_described() -> None:
    rows = [line.split(" | ") for line in page("json.md").splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows if not row[-1].strip("| ")] == []


def test_every_exit_status_is_in_the_reference() -> None:
    kinds = (each for each in vars(errors).values() if isinstance(each, type))
    statuses = {kind.exit_status for kind in kinds if issubclass(kind, errors.ProxyInitError)}
    statuses |= {0, status.DIFFERENT, prove.BROKEN, 130}
    listed = re.findall(r"^\| (\d+) \|", page("exit-status.md"), flags=re.M)
    assert list(map(int, listed)) == sorted(statuses)


def test_a_page_cannot_ask_for_what_there_is_not() -> None:
    with pytest.raises(LookupError, match="nonsense"):
        refreshed("<!-- generated: nonsense -->\n<!-- end -->")
