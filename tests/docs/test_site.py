"""The documentation site can be built, and none of its links leads nowhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build a site; what is wrong with a page or a link is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, "--config-file", str(config), "--site-dir", str(site)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    result = build(ROOT / "mkdocs.yml", tmp_path)
    assert result.returncode == 0, result.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|link)\b[^>]*?(?:src|href)=\"([^\"]*)", page.read_text()
        )
        assert [place for place in loaded if re.match("(https?:)?//", place)] == []


@pytest.mark.parametrize("link", ["nowhere.md", "#nowhere", "index.md#nowhere", "/nowhere"])
def test_a_link_that_leads_nowhere_fails(tmp_path: Path, link: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Title\n\n[link]({link})\n")
    config = re.sub(
        "^nav:.*?^(?=validation)", "", (ROOT / "mkdocs.yml").read_text(), flags=re.M | re.S
    )
    (tmp_path / "mkdocs.yml").write_text(config)
    assert build(tmp_path / "mkdocs.yml", tmp_path / "site").returncode == 1
