"""The wheel that a release publishes."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[2]


def build(directory: Path) -> Path:
    environ = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    subprocess.run([ROOT / "scripts/wheel", directory], env=environ, timeout=300, check=True)
    [wheel] = directory.iterdir()
    return wheel


def test_the_wheel_holds_the_package_and_is_the_same_when_built_again(tmp_path: Path) -> None:
    wheel, again = build(tmp_path / "first"), build(tmp_path / "second")
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("proxy_init/")}
    files = (path for path in (ROOT / "proxy_init").rglob("*") if path.is_file())
    assert held == {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert wheel.read_bytes() == again.read_bytes()
