"""What the pages say about the code is so."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "netns-fixtures/README.md")
    if path.name != "CHANGELOG.md"
]


@pytest.mark.parametrize("page", sorted(PAGES), ids=str)
def test_files_that_a_page_names_exist(page: Path) -> None:
    places = (ROOT, ROOT / "proxy_init", (ROOT / page).parent)
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        if any((place / name.partition("/")[0]).is_dir() for place in places):
            assert any((place / name).exists() for place in places), name


def test_the_page_about_the_architecture_lists_the_packages_in_the_order_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    text = (ROOT / "docs/architecture.md").read_text()
    table = re.search(r"^\| Package \|.*?\n\n", text, flags=re.M | re.S)
    assert table
    listed = re.findall(r"^\| `(\w+)` \|", table[0], flags=re.M)
    assert listed == contracts["contracts"][0]["layers"]
