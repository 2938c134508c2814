"""The console examples of README.md and docs do what they show."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from .console import ROOT, agrees, examples, place, run

PAGES = [
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if examples(path.read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_examples_of_a_page_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    wrong = []
    with place(tmp_path) as before:
        for example in examples((ROOT / page).read_text()):
            status, output, log = run(before, tmp_path, example)
            # A terminal shows the log, too; pages often leave it out.
            right = any(agrees(example.output, text) for text in (output, log + output))
            if not right or (status and not example.output):
                shown = f"$ {example.command}\n{log}{output}(exit status {status})"
                wrong.append(f"{shown}\n{page} shows:\n{example.output}")
    assert not wrong, "\n\n".join(wrong)
    for made in (tmp_path / "home").iterdir():
        if made.suffix == ".svg":
            assert words_of(made) == words_of((ROOT / page).with_name(made.name)), made.name
        if made.suffix == ".mmd" and "```mermaid" in (ROOT / page).read_text():
            assert f"```mermaid\n{made.read_text()}```" in (ROOT / page).read_text()


def words_of(svg: Path) -> list[str]:
    """What a picture says. Where its parts lie depends on the version of Graphviz and the fonts."""
    texts = ("".join(text).strip() for text in ElementTree.parse(svg).getroot().itertext())
    return sorted(text for text in texts if text)


PAGE = """
```console
$ one \\
    --more
first
second
$ two | sudo three
```
<!-- not run -->
```console
$ four
```
```sh
$ five
```
"""


def test_examples_are_commands_with_the_output_below_them() -> None:
    one, two = examples(PAGE)
    assert (one.command, one.output) == ("one \\\n    --more", "first\nsecond\n")
    assert (two.command, two.output) == ("two | sudo three", "")
    assert (one.privileged, two.privileged) == (False, True)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("a\nb\n", "a\nb\n"),
        ("a\n", "a  \n"),
        ("a\n…\nd\n", "a\nb\nc\nd\n"),
        ("a\n…\n", "a\n"),
        ("  …\nd\n", "b\nd\n"),
        ("a … d\n", "a b c d\n"),
        ("2026-01-01T00:00:00.1Z milliseconds=9\n", "2027-02-02T11:11:11Z milliseconds=12\n"),
    ],
)
def test_what_is_left_out_may_be_anything(shown: str, printed: str) -> None:
    assert agrees(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("a\nb\n", "a\n"),
        ("a\n", "a\nb\n"),
        ("a\n…\nd\n", "a\nb\n"),
        ("a … d\n", "a b\nd\n"),
        ("a.c\n", "abc\n"),
        ("", "a\n"),
        ("a\n", ""),
    ],
)
def test_all_else_must_be_as_shown(shown: str, printed: str) -> None:
    assert not agrees(shown, printed)
