"""What is measured: our program in its usual jobs, and other ways to get the same rules."""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy_init.rulesets.cidr_tree import LONG

USUAL = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"),
    *("-i", "*", "-b", "*", "-d", "15090,15021,15020"),
)
TPROXY = (*USUAL, "-m", "TPROXY")
DUAL_STACK = (*USUAL, "--dual-stack", "--redirect-dns", "--capture-all-dns")
OLD = ("--ruleset", "1.0")
NFT = ("--backend", "nft")
LENGTHS = (10, 100, 1000, 10_000)
LONGEST_OF_SCRIPT = 1000  # more takes it a minute

# As in a pod of a dual-stack cluster.
ADDRESSES = (
    ("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "outside"),
    ("ip", "address", "add", "10.1.2.3/24", "dev", "eth0"),
    ("ip", "address", "add", "fd00::3/64", "dev", "eth0", "nodad"),
    ("ip", "link", "set", "eth0", "up"),
)

Command = tuple[str, ...]
MAIN: Sequence[tuple[str, Command, tuple[Command, ...]]] = (
    ("REDIRECT", USUAL, ()),
    ("TPROXY", TPROXY, ()),
    ("dual stack, DNS", DUAL_STACK, ADDRESSES),
)
"""Jobs, their flags, and what comes before them."""

EMPTY, PYTHON, PYTHON_OF_IMAGE = "nothing at all", "Python", "Python of the image"
OURS, IN_IMAGE = "proxy-init", "in the image"


@dataclass(frozen=True)
class Case:
    """A command to time, and what comes before it in its namespace."""

    job: str
    """What is to be done, the same for all who do it."""
    by: str
    command: Command
    before: tuple[Command, ...] = ()
    length: int = 0
    """How many CIDRs there are in -x."""
    drawn: bool = True
    """Whether the plots show it."""

    @property
    def python(self) -> str:
        """The interpreter that it runs in, if it is ours: who did nothing at all with it."""
        if self.by.startswith((IN_IMAGE, PYTHON_OF_IMAGE)):
            return PYTHON_OF_IMAGE
        return PYTHON if self.by.startswith((OURS, PYTHON)) else ""


class Cases:
    """The cases, for a program in `directory`; files that they need go to `work`."""

    def __init__(
        self, directory: Path, work: Path, peers: Sequence[str], image: Path | None = None
    ) -> None:
        # As the image starts it.
        python = getattr(sys, "_base_executable", sys.executable)
        self._ours = (python, "-I", "-S", str(directory / "start.py"))
        self._work = work
        self._peers = peers
        self._image = image

    def __iter__(self) -> Iterator[Case]:
        yield from self._usual()
        if self._image:
            yield from self._in_the_image(self._image)
        for length in LENGTHS:
            yield from self._excluding(length)
        for length in (0, *LENGTHS):
            yield from self._proving(length)

    def _usual(self) -> Iterator[Case]:
        ours = self._ours
        yield Case(EMPTY, PYTHON, (*ours[:3], "-c", "pass"))
        yield Case("REDIRECT", "proxy-init", (*ours, *USUAL))
        yield Case("REDIRECT", "script of 1.0.0", self._script("REDIRECT", *OLD, *USUAL))
        yield Case("REDIRECT", "iptables-restore", self._restore("REDIRECT", *USUAL))
        for peer in self._peers:
            yield Case("REDIRECT", peer.split()[0], (*peer.split(), *USUAL))
        yield from self._through_nft("REDIRECT", USUAL)
        for flags, by in ((USUAL, "proxy-init"), ((*USUAL, *NFT), "proxy-init, nft")):
            yield Case("REDIRECT again", by, (*ours, *flags), ((*ours, *flags),))
        yield Case("dry run", "proxy-init", (*ours, *USUAL, "-n"))
        yield Case("TPROXY", "proxy-init", (*ours, *TPROXY))
        yield Case("TPROXY", "script of 1.0.0", self._script("TPROXY", *OLD, *TPROXY))
        yield Case("TPROXY", "iptables-restore", self._restore("TPROXY", *TPROXY))
        yield from self._through_nft("TPROXY", TPROXY)
        yield Case("dual stack, DNS", "proxy-init", (*ours, *DUAL_STACK), ADDRESSES)
        restore = self._restore("dual", *DUAL_STACK, "--ipv6")
        yield Case("dual stack, DNS", "iptables-restore", restore, ADDRESSES)
        yield from self._through_nft("dual stack, DNS", DUAL_STACK, ADDRESSES)

    def _in_the_image(self, root: Path) -> Iterator[Case]:
        """The same in the image's file system, with its interpreter."""
        inside = ("chroot", str(root))
        ours = (*inside, "/usr/local/bin/proxy-init")
        empty = (*inside, "/usr/bin/python3.13", "-IS", "-c", "pass")
        yield Case(EMPTY, PYTHON_OF_IMAGE, empty, drawn=False)
        for job, flags, before in MAIN:
            yield Case(job, IN_IMAGE, (*ours, *flags), before, drawn=False)
            yield Case(job, f"{IN_IMAGE}, nft", (*ours, *flags, *NFT), before, drawn=False)
        again = ((*ours, *USUAL),)
        yield Case("REDIRECT again", IN_IMAGE, (*ours, *USUAL), again, drawn=False)

    def _through_nft(
        self, job: str, flags: Sequence[str], before: tuple[Command, ...] = ()
    ) -> Iterator[Case]:
        yield Case(job, "proxy-init, nft", (*self._ours, *flags, *NFT), before)
        ipv6 = ("--ipv6",) if before else ()
        restore = self._restore(job, *flags, *ipv6, backend="nft")
        yield Case(job, "iptables-nft-restore", restore, before)

    def _excluding(self, length: int) -> Iterator[Case]:
        path = self._work / f"cidrs-{length}"
        path.write_text("\n".join(cidrs(length)))
        flags = (*USUAL, "-x", f"@{path}")
        job, name = f"REDIRECT, {length:,} CIDRs", str(length)
        yield Case(job, "proxy-init", (*self._ours, *flags), length=length)
        yield Case(job, "proxy-init, nft", (*self._ours, *flags, *NFT), length=length)
        if length > LONG:
            listed = (*self._ours, *flags, "--cidr-tree", "never")
            yield Case(job, "proxy-init, as a list", listed, length=length)
        restore = self._restore(name, *flags)
        yield Case(job, "iptables-restore", restore, length=length)
        if length <= LONGEST_OF_SCRIPT:
            script = self._script(name, *OLD, *flags)
            yield Case(job, "script of 1.0.0", script, length=length)

    def _proving(self, length: int) -> Iterator[Case]:
        """What is to grow no faster than n log n."""
        if not length:
            yield Case("prove", "proxy-init", (*self._ours, "prove", *USUAL), drawn=False)
            return
        flags = (*USUAL, "-x", f"@{self._work / f'cidrs-{length}'}")
        for by, how in (("as a list", "never"), ("as a tree", "always")):
            command = (*self._ours, "prove", *flags, "--cidr-tree", how)
            yield Case(f"prove, {length:,} CIDRs", by, command, length=length, drawn=False)

    def _dry_run(self, *flags: str) -> str:
        result = subprocess.run([*self._ours, *flags, "-n"], capture_output=True, check=True)
        return result.stdout.decode()

    def _restore(self, name: str, *flags: str, backend: str = "legacy") -> Command:
        """The floor: one program of C, fed with the rules as text."""
        text = self._dry_run(*flags)
        programs = {4: f"iptables-{backend}-restore", 6: f"ip6tables-{backend}-restore"}
        paths = {version: self._work / f"{name}-{version}" for version in programs}
        ipv4, _, ipv6 = text.partition("# IPv6\n")
        paths[4].write_text(ipv4)
        paths[6].write_text(ipv6)
        if not ipv6:
            return (programs[4], str(paths[4]))
        both = " && ".join(shlex.join((programs[v], str(paths[v]))) for v in programs)
        return ("sh", "-c", both)

    def _script(self, name: str, *flags: str) -> Command:
        path = self._work / f"{name}.sh"
        path.write_text(script(self._dry_run(*flags)))
        return ("bash", str(path))


# What the script of the 1.0.0 image took away first, whatever there was.
REMOVED = (
    "-t nat -D PREROUTING -p tcp -j ISTIO_INBOUND",
    "-t mangle -D PREROUTING -p tcp -j ISTIO_INBOUND",
    "-t nat -D OUTPUT -p tcp -j ISTIO_OUTPUT",
    *("-t nat -F ISTIO_OUTPUT", "-t nat -X ISTIO_OUTPUT"),
    *("-t nat -F ISTIO_INBOUND", "-t nat -X ISTIO_INBOUND"),
    *("-t mangle -F ISTIO_INBOUND", "-t mangle -X ISTIO_INBOUND"),
    *("-t mangle -F ISTIO_DIVERT", "-t mangle -X ISTIO_DIVERT"),
    *("-t mangle -F ISTIO_TPROXY", "-t mangle -X ISTIO_TPROXY"),
    *("-t nat -F ISTIO_REDIRECT", "-t nat -X ISTIO_REDIRECT"),
    *("-t nat -F ISTIO_IN_REDIRECT", "-t nat -X ISTIO_IN_REDIRECT"),
)


def script(text: str) -> str:
    """A stand-in for the script of the 1.0.0 image: a program for each thing that is removed, for
    each chain and for each rule, the rules being those of our own dry run's `text`."""
    lines = [f"iptables-legacy {removed}" for removed in REMOVED]
    program = table = ""
    for line in text.splitlines():
        if line.startswith("# IPv"):
            program = "iptables-legacy" if line.endswith("4") else "ip6tables-legacy"
        elif line.startswith("# "):
            lines.append(line.removeprefix("# "))  # ip rule, ip route
        elif line.startswith("*"):
            table = line[1:]
        elif line.startswith(":ISTIO_"):
            lines.append(f"{program} -t {table} -N {line[1:].split()[0]}")
        elif line.startswith("-A"):
            lines.append(f"{program} -t {table} {line}")
    return "".join(f"{line}\n" for line in lines)


def cidrs(length: int) -> Iterator[str]:
    """Networks of which no two lie side by side, so that none can be merged."""
    for number in range(length):
        yield f"{10 + number // 2**15}.{number // 2**7 % 2**8}.{number * 2 % 2**8}.0/24"
