"""What the program touches besides tables and routes, and what those who feed it can make it do.

Seen with strace, which misses nothing: no other program is run, no file is written but the lock and
the termination log, and nobody is spoken to but the kernel.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pods import ENVIRONMENT, namespace
from proxy_init.config.flags import FLAGS, FlagKind
from proxy_init.rules.model import Family
from tests.foreign import NONE_MADE, tables_made
from tests.running import both_backends, saved
from tests.unit.fakes import VARIABLES_WITHOUT_A_FLAG

ALL = ("-u", "1337", "-i", "*", "-b", "*", "--ipv6")
TPROXY = (*ALL, "-m", "TPROXY", "--redirect-dns", "--drop-invalid", "--comments")
EVERY_DNS = (*TPROXY, "--capture-all-dns", "-c", "eth1", "-x", "10.0.0.0/8,fd00::/8")
OLD = ("--ruleset", "1.0", "-u", "1337", "-i", "*", "-b", "*", "-m", "TPROXY")
LISTS = ("-b", "-d", "-i", "-x", "-o", "-q")
CALLED = "execve,execveat"
CHANGING = (
    "chmod,chown,creat,fchmod,fchmodat,fchown,fchownat,lchown,link,linkat,mkdir,mkdirat,mknod,mknodat,"
    "mount,open,openat,openat2,rename,renameat,renameat2,rmdir,symlink,symlinkat,truncate,umount2,"
    "unlink,unlinkat,utimensat"
)
OPENING = ("open", "openat", "openat2")
SPEAKING = ("connect", "sendto", "sendmsg", "sendmmsg")

# What a shell, a format string, a template or a path would make something of; {file} is a name in
# a directory where nothing may appear.
PAYLOADS = (
    "$(touch {file})",
    "`touch {file}`",
    "1; touch {file}",
    "1 && touch {file} #",
    "| tee {file}",
    "1\ntouch {file}",
    "../../../../{file}",
    "%n%s{0.__class__}{file}",
    "__import__('os').system('touch {file}')",
    "-A INPUT -j ACCEPT",
    "\x1b]0;{file}\x07",
)


@dataclass(frozen=True)
class Traced:
    """One run, and the system calls of its processes."""

    status: int
    stderr: str
    calls: list[str]

    def named(self, *names: str) -> list[str]:
        """The calls of these names, as strace writes them."""
        return [call for call in self.calls if call.partition("(")[0] in names]

    @property
    def programs(self) -> set[str]:
        """The command lines of the programs that it ran, without where they are."""
        first, *others = self.named(*CALLED.split(","))
        assert '"proxy_init"' in first
        lines = (re.search(r"\[(.*?)\]", call) for call in others)
        words = (re.findall('"(.*?)"', line[1]) for line in lines if line)
        return {" ".join((Path(program).name, *rest)) for program, *rest in words}

    @property
    def spoken_to_the_network(self) -> list[str]:
        """Calls that name a peer on the network; the kernel is none.

        libxtables reads a port by getaddrinfo(), which connects a UDP socket to either loopback
        address, to see which is to be preferred, and sends nothing.
        """
        return [
            call
            for call in self.named(*SPEAKING)
            if re.search("sin6?_port", call)
            and not re.match(r'connect\(.*("::1"|inet_addr\("127\.0\.0\.1"\))', call)
        ]

    @property
    def written(self) -> set[str]:
        """The files that were opened for writing, or that it was tried with."""
        opened = (re.match(r'open\w*\(.*?"(.*?)".*?\b(O_[A-Z|_]+)', call) for call in self.calls)
        return {
            match[1] for match in opened if match and re.search("WRONLY|RDWR|CREAT", match[2])
        } - {os.devnull}


@pytest.fixture
def empty() -> Iterator[Path]:
    """A directory to work in, in which nothing may appear."""
    with TemporaryDirectory() as directory:
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []


def traced(
    name: str,
    tmp_path: Path,
    *flags: str,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    resolv_conf: str = "nameserver 10.96.0.10\n",
) -> Traced:
    """Run the program under strace, where /etc/resolv.conf holds this text."""
    (tmp_path / "resolv.conf").write_text(resolv_conf)
    words = (sys.executable, "-m", "proxy_init", *flags)
    calls = f"--trace={CALLED},{CHANGING},{','.join(SPEAKING)}"
    tracing = ("strace", "-f", "-qq", "-s4096", "--signal=none", calls, f"-o{tmp_path}/calls")
    script = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
    done = subprocess.run(
        [
            *namespace.command_in(name),
            *("unshare", "--mount", "sh", "-c", script, "sh", *tracing, *words),
        ],
        env=ENVIRONMENT
        | {"PYTHONDONTWRITEBYTECODE": "1", "XTABLES_LOCKFILE": str(tmp_path / "lock")}
        | dict(environ or {}),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Traced(done.returncode, done.stderr, list(whole_calls(tmp_path / "calls")))


def whole_calls(log: Path) -> Iterator[str]:
    """The calls of strace's log; those that it tells in two parts are put together."""
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        process, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith(" <unfinished ...>"):
            begun[process] = call.removesuffix(" <unfinished ...>")
        elif match := re.match(r"<\.\.\. \w+ resumed>", call):
            yield begun.pop(process) + call[match.end() :]
        else:
            yield call
    yield from begun.values()


CASES = {
    "apply": ((), ALL),
    "replace": (TPROXY, EVERY_DNS),
    "nothing to do": (TPROXY, TPROXY),
    "1.0": ((), OLD),
    "clean": (TPROXY, ("clean",)),
    "status": (TPROXY, ("status", *ALL)),
    "counters": (TPROXY, ("counters", *ALL)),
    "explain": (TPROXY, ("explain", *ALL, "--live", "--to", "192.0.2.1:80")),
    "graph": ((), ("graph", *ALL)),
    "prove": ((), ("prove", *ALL)),
    "check": ((), ("check", *TPROXY)),
    "dry run": ((), (*TPROXY, "--dry-run")),
    "wrong": ((), (*ALL, "-p", "0")),
}


@both_backends
@pytest.mark.parametrize(("before", "flags"), CASES.values(), ids=CASES)
def test_it_reaches_the_kernel_and_the_lock_and_nothing_else(
    fresh: str, tmp_path: Path, empty: Path, before: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    lock = tmp_path / "lock"
    if before:
        first = traced(fresh, tmp_path, *before)
        assert (first.status, first.written) == (0, {str(lock)}), first.stderr
    run = traced(fresh, tmp_path, *flags, directory=empty)
    assert run.status in (0, 2, 3), run.stderr
    assert run.programs == set()
    assert run.named(*set(CHANGING.split(",")) - set(OPENING)) == []
    assert run.written <= {str(lock), "/dev/termination-log"}
    assert not lock.exists() or lock.read_bytes() == b""
    assert run.spoken_to_the_network == []


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("given_by", ["flags", "variables", "files"])
def test_no_value_is_ever_interpreted(
    fresh: str, tmp_path: Path, empty: Path, given_by: str, payload: str
) -> None:
    text = payload.replace("{file}", "appeared")
    flags: list[str] = []
    environ: dict[str, str] = {}
    valued = [flag for flag in FLAGS if flag.kind is FlagKind.VALUE and not flag.retired]
    if given_by == "flags":
        flags = [f"{flag.spellings.split()[-1]}={text}" for flag in valued]
    elif given_by == "variables":
        names = [name for flag in FLAGS for name in flag.variables.split()]
        environ = dict.fromkeys((*names, *VARIABLES_WITHOUT_A_FLAG), text)
    else:
        list_file = tmp_path / "list"
        list_file.write_text(text)
        flags = [word for flag in LISTS for word in (flag, f"@{list_file}")]
    run = traced(fresh, tmp_path, *flags, environ=environ, directory=empty)
    assert run.status == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert "\x1b" not in run.stderr
    assert len(run.named(*CALLED.split(","))) == 1
    assert run.written <= {"/dev/termination-log"}
    assert run.spoken_to_the_network == []
    assert tables_made(fresh) == NONE_MADE


@pytest.mark.parametrize("payload", PAYLOADS)
def test_of_resolv_conf_nothing_but_addresses_counts(
    fresh: str, tmp_path: Path, empty: Path, payload: str
) -> None:
    text = payload.replace("{file}", "appeared")
    lines = (text, f"nameserver {text}", f"nameserver 10.96.0.10 {text}", f"options {text}")
    run = traced(
        fresh,
        tmp_path,
        *TPROXY,
        directory=empty,
        resolv_conf="".join(f"{line}\n" for line in lines),
    )
    assert run.status == 0, run.stderr
    assert len(run.named(*CALLED.split(","))) == 1
    assert run.written <= {str(tmp_path / "lock")}
    captured = re.findall("-d ([^ ]+) .*--dport 53 ", saved(fresh, Family.V4)["nat"])
    assert set(captured) == {"10.96.0.10/32"}
