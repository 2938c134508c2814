"""The program as an image has it: in a place of its own, with its byte code in few files."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_THE_IMAGE = "/usr/local/lib/python3.13/dist-packages"
Edit = Callable[[Path], object]


def _unchanged(_: Path) -> None:
    """The sources as they are."""


def installed(directory: Path, edit: Edit = _unchanged) -> Path:
    """A place for `sys.path` with all that a plain call loads, after an `edit` of the sources.

    `start.py` in it is the program of the image, for this interpreter.
    """
    program = directory / "program"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "proxy_init", program / "proxy_init", ignore=ignored)
    iptc = find_spec("iptc")
    assert iptc and iptc.submodule_search_locations
    place = Path(iptc.submodule_search_locations[0])
    for path in (place, *place.parent.glob("libxtwrapper*")):
        (program / path.name).symlink_to(path)
    starter = (ROOT / "image/proxy-init").read_text()
    assert IN_THE_IMAGE in starter
    (program / "start.py").write_text(starter.replace(IN_THE_IMAGE, str(program)))
    edit(program / "proxy_init")
    # In the order of the image: what Python itself keeps, then ours.
    for words in (("compileall", "-q", str(program)), ("proxy_init.bundle",)):
        command = [sys.executable, "-P", "-m", *words]
        subprocess.run(command, env={"PYTHONPATH": str(program)}, check=True)
    return program
