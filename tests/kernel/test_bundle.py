"""Byte code in few files: it is that of the sources, and only as long as they are the same."""

import marshal
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType

import pytest

from pods import namespace
from proxy_init import bundle
from tests.installed import Edit, installed

FLAGS = ("-u", "1337", "-i", "*", "-b", "*")
LINES = """
import sys
sys.argv = ["proxy-init", *sys.argv[1:]]
sys.path.insert(0, {program!r})
from proxy_init import __main__
from proxy_init.cli.main import main
status = main()
for name, module in [*sys.modules.items()]:
    spec = getattr(module, "__spec__", None)
    if spec and spec.has_location and spec.origin.endswith(".py"):
        print("loaded", name, spec.cached)
sys.exit(status)
"""


def start(program: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(program / "start.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env={})


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with its files of byte code."""
    return installed(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize(
    "flags",
    [
        ("-n",),
        (),
        ("-m", "TPROXY"),
        ("--backend", "nft"),
        ("-m", "TPROXY", "--backend", "nft"),
        ("--redirect-dns", "--capture-all-dns", "--ipv6"),
    ],
    ids=" ".join,
)
def test_a_plain_call_loads_all_from_it(fresh: str, program: Path, flags: tuple[str, ...]) -> None:
    for _ in ("first", "second"):
        command = [sys.executable, "-I", "-S", "-c", LINES.format(program=str(program))]
        result = namespace.run(fresh, [*command, *FLAGS, *flags], env={})
        assert result.returncode == 0, result.stderr
        words = (line.split() for line in result.stdout.splitlines())
        cached = {line[1]: line[2] for line in words if line[0] == "loaded"}
        # What finds the others; and Python itself loads encodings.
        others = {
            name
            for name, path in cached.items()
            if "/bundle." not in path and not name.startswith("encodings")
        }
        assert others <= {"proxy_init", "proxy_init.__main__", "proxy_init.bundle"}
        assert len(cached) > 40


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:invalid escape sequence:SyntaxWarning")
def test_it_is_the_byte_code_of_the_sources(program: Path) -> None:
    directory = Path(bundle.directory_of(str(program / "proxy_init")))
    _, stamps, modules = marshal.loads((directory / "index").read_bytes())
    codes: Mapping[str, Mapping[str, CodeType]] = {
        path.name: marshal.loads(path.read_bytes())
        for path in directory.iterdir()
        if path.name != "index"
    }
    assert sorted(codes) == sorted(bundle.GROUPS)
    assert {path for _, path, _ in modules.values()} == {*stamps}
    for name, (group, path, _) in modules.items():
        source = Path(path).read_bytes()
        assert codes[group][name] == compile(source, path, "exec", dont_inherit=True, optimize=2)


def raises(package: Path) -> None:
    path = package / "cli/decisions.py"
    path.write_text(
        path.read_text().replace("    captured = []\n", "    captured = [] + [1 / 0]  # here\n")
    )


def test_a_traceback_names_files_and_lines(tmp_path: Path) -> None:
    program = installed(tmp_path, raises)
    path = program / "proxy_init/cli/decisions.py"
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "# here" in text)
    result = start(program, *FLAGS, "-n")
    assert result.returncode == 1
    assert f'File "{path}", line {line}, in _outbound' in result.stderr
    assert "captured = [] + [1 / 0]  # here" in result.stderr
    assert "ZeroDivisionError" in result.stderr


def later(package: Path) -> None:
    """The same text, written once more."""
    os.utime(package / "cli/decisions.py", ns=(1, 1))


def shorter(package: Path) -> None:
    """Another text, of the same time."""
    path = package / "cli/decisions.py"
    times = path.stat()
    path.write_text(path.read_text().replace("mode {config.mode.value}", "MODE"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def gone(package: Path) -> None:
    """No such source any more."""
    (package / "config/warnings.py").rename(package / "config/cautions.py")
    path = package / "config/read.py"
    path.write_text(path.read_text().replace("from .warnings import", "from .cautions import"))


@pytest.mark.parametrize("edit", [later, shorter, gone])
def test_it_does_not_count_once_a_source_has_changed(tmp_path: Path, edit: Edit) -> None:
    program = installed(tmp_path)
    before = start(program, *FLAGS, "-n")
    assert before.returncode == 0 and "mode REDIRECT" in before.stderr
    index = Path(bundle.directory_of(str(program / "proxy_init"))) / "index"
    assert index.exists()
    edit(program / "proxy_init")
    for group in bundle.GROUPS:
        (index.parent / group).write_bytes(b"is not read")
    after = start(program, *FLAGS, "-n")
    assert (after.returncode, after.stdout) == (0, before.stdout)
    assert ("MODE" in after.stderr) == (edit is shorter)
