"""What is in the image, and how little it needs to run."""

import hashlib
import json
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from node import PROXY_INIT, Node, builder
from pods import namespace
from proxy_init import __version__
from proxy_init.rules.model import Family
from tests.fault_injection import NET_ADMIN, NET_RAW
from tests.running import BOTH, by_table, fresh_namespace, saved, with_rules

ROOT = Path(__file__).resolve().parents[2]
SBOM = "usr/share/sbom/proxy-init.cdx.json"
SITE = "usr/local/lib/python3.13/dist-packages"

# What Kubernetes makes of a locked down container; podman would put a tmpfs into a read-only one.
LOCKED = (
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--memory=128m"),
    *("--security-opt=no-new-privileges", "--pull=never"),
)
CAPABLE = (*LOCKED, "--cap-add=NET_ADMIN", "--cap-add=NET_RAW")
FLAGS = {
    "REDIRECT": ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6"),
    "by name": ("-u", "istio-proxy", "-g", "istio-proxy", "-i", "10.0.0.0/8", "-b", "80"),
    "TPROXY": ("-m", "TPROXY", "-u", "1337", "-i", "*", "-b", "*", "--ipv6", "--drop-invalid"),
    "DNS": ("-u", "1337", "-i", "*", "--redirect-dns", "--capture-all-dns", "--comments"),
    "1.0": ("--ruleset", "1.0", "-u", "1337", "-m", "TPROXY", "-i", "*", "-b", "*"),
}


class Entry(NamedTuple):
    """A file of the image."""

    mode: int
    owner: tuple[int, int]
    kind: bytes
    time: float
    digest: str


Contents = Mapping[str, Entry]
Run = subprocess.CompletedProcess[str]


@pytest.fixture
def fresh() -> Iterator[str]:
    """A network namespace in which nobody has touched any table; lo is up."""
    with fresh_namespace() as name:
        yield name


@pytest.fixture(scope="module")
def archive(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tarfile.TarFile]:
    """The image's file system, as an archive."""
    path = tmp_path_factory.mktemp("image") / "image.tar"
    made = node.podman("create", "--pull=never", PROXY_INIT)
    made.check_returncode()
    node.podman("export", "--output", str(path), made.stdout.strip()).check_returncode()
    node.podman("rm", made.stdout.strip()).check_returncode()
    with tarfile.open(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def contents(archive: tarfile.TarFile) -> Contents:
    """All files of the image, by path."""
    return {
        member.name: Entry(
            member.mode,
            (member.uid, member.gid),
            member.type,
            member.mtime,
            hashlib.sha256(read(archive, member.name)).hexdigest() if member.isreg() else "",
        )
        for member in archive.getmembers()
    }


def read(archive: tarfile.TarFile, name: str) -> bytes:
    """What a file of the image holds."""
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def run(node: Node, name: str, *flags: str, options: tuple[str, ...] = CAPABLE) -> Run:
    """Run the image in a network namespace."""
    network = f"--network=ns:/run/netns/{name}"
    return node.podman("run", "--rm", network, *options, PROXY_INIT, *flags)


def configuration(node: Node) -> dict[str, Any]:
    """What the image says of itself."""
    (image,) = json.loads(node.podman("image", "inspect", PROXY_INIT).stdout)
    settings: dict[str, Any] = image["Config"]
    return settings


def test_it_says_what_it_is(node: Node) -> None:
    settings = configuration(node)
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in settings["Labels"].items()
    }
    assert labels["title"] == "proxy-init"
    assert labels["version"] == __version__ == PROXY_INIT.rpartition(":")[2]
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|", labels["revision"])
    assert settings["Entrypoint"] == ["proxy-init"]


def test_there_is_no_program_in_it_but_ours(contents: Contents) -> None:
    programs = {
        name
        for name, entry in contents.items()
        if entry.kind == tarfile.REGTYPE and entry.mode & 0o111 and ".so" not in name
    }
    ours = {"usr/bin/python3.13", "usr/local/bin/proxy-init"}
    assert programs == ours
    assert not any(re.search("/(pip|ensurepip|setuptools|distutils)/", name) for name in contents)


def test_nothing_in_it_gives_rights_away(contents: Contents) -> None:
    assert {entry.owner for entry in contents.values()} == {(0, 0)}
    assert not [name for name, entry in contents.items() if entry.mode & 0o6000]
    writable = {
        name
        for name, entry in contents.items()
        if entry.mode & 0o022 and entry.kind != tarfile.SYMTYPE
    }
    assert writable <= {"tmp"}


def test_byte_code_is_there_and_is_not_compared_with_its_source(
    archive: tarfile.TarFile, contents: Contents
) -> None:
    sources = [
        name
        for name in contents
        if name.endswith(".py") and name.startswith(("usr/lib/python3.13/", SITE))
    ]
    assert f"{SITE}/proxy_init/__main__.py" in sources
    for name in sources:
        directory, _, file = name.rpartition("/")
        compiled = f"{directory}/__pycache__/{file.removesuffix('.py')}.cpython-313.pyc"
        # PEP 552: after the magic number, 1 says hash-based, and not to be checked.
        assert read(archive, compiled)[4:8] == b"\1\0\0\0", compiled


def test_a_plain_call_finds_its_byte_code_in_few_files(node: Node, fresh: str) -> None:
    program = f"""
import sys
sys.path.insert(0, "/{SITE}")
import proxy_init.__main__
from proxy_init.kernel.legacy.libiptc import load
for module in (proxy_init.cli.main, load()):
    print(module.__file__, module.__cached__)
"""
    options = (*LOCKED, "--entrypoint", "/usr/bin/python3.13")
    said = run(node, fresh, "-I", "-S", "-c", program, options=options)
    files = f"/{SITE}/proxy_init/__pycache__/bundle.cpython-313"
    assert said.stdout.splitlines() == [
        f"/{SITE}/proxy_init/cli/main.py {files}",
        f"/{SITE}/iptc/__init__.py {files}",
    ]


def test_the_bill_of_materials_lists_all_packages(
    archive: tarfile.TarFile, contents: Contents
) -> None:
    bill = json.loads(read(archive, SBOM))
    assert bill["bomFormat"] == "CycloneDX"
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("proxy-init", __version__)
    urls = [component["purl"] for component in bill["components"]]
    assert len(urls) == len(set(urls))

    listed = {url.removeprefix("pkg:pypi/") for url in urls if url.startswith("pkg:pypi/")}
    locked = re.findall("^([a-z0-9-]+==[^ ]+)", (ROOT / "requirements/run.txt").read_text(), re.M)
    left_out = {"markdown-it-py", "mdurl", "pygments"}  # see image/assemble
    assert listed == {
        requirement.replace("==", "@")
        for requirement in locked
        if requirement.partition("==")[0] not in left_out
    }
    installed = {
        name.split("/")[-2].removesuffix(".dist-info").lower().replace("_", "-")
        for name in contents
        if name.startswith(SITE) and name.endswith(".dist-info/METADATA")
    }
    known = {name.replace("@", "-").replace(".", "-") for name in listed}
    assert {name.replace(".", "-") for name in installed} == known | {
        f"proxy-init-{__version__}".replace(".", "-")
    }

    status = read(archive, "var/lib/dpkg/status").decode()
    debian = {url.split("/")[-1].split("@")[0] for url in urls if "pkg:deb/" in url}
    assert set(re.findall("^Package: (.*)$", status, re.M)) <= debian
    assert {"libc6", "libxtables12", "python3.13-minimal"} <= debian


def test_every_module_can_be_loaded(node: Node, fresh: str) -> None:
    program = """
import importlib, pkgutil, proxy_init
for module in pkgutil.walk_packages(proxy_init.__path__, "proxy_init."):
    importlib.import_module(module.name)
    print(module.name)
from proxy_init.kernel.legacy.libiptc import load
load()
"""
    options = (*LOCKED, "--entrypoint", "/usr/bin/python3.13")
    loaded = run(node, fresh, "-I", "-c", program, options=options)
    assert loaded.returncode == 0, loaded.stderr
    assert "proxy_init.cli.commands" in loaded.stdout.splitlines()


def wanted(node: Node, name: str, *flags: str) -> dict[Family, dict[str, str]]:
    """By family, the tables of a dry run, for which a container needs no capability."""
    printed = run(node, name, *flags, "--dry-run", options=LOCKED)
    assert printed.returncode == 0, printed.stderr
    _, ipv4, ipv6 = re.split("^# IPv[46]\n", printed.stdout, flags=re.M)
    return {Family.V4: by_table(ipv4), Family.V6: by_table(ipv6)}


def held(name: str) -> dict[Family, dict[str, str]]:
    """By family, the tables of a network namespace that hold anything."""
    return {family: with_rules(saved(name, family)) for family in BOTH}


def test_these_containers_are_as_locked_down_as_they_should_be(node: Node, fresh: str) -> None:
    program = """
import os
print(open("/proc/self/status").read())
try:
    os.mkdir("/run/made")
except OSError as error:
    print(error.strerror)
"""
    options = (*CAPABLE, "--entrypoint", "/usr/bin/python3.13")
    said = run(node, fresh, "-I", "-c", program, options=options).stdout
    status = dict(re.findall(r"^(\w+):\t(.*)$", said, re.M))
    assert int(status["CapEff"], 16) == 1 << NET_ADMIN | 1 << NET_RAW
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert said.splitlines()[-1] == "Read-only file system"


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_two_capabilities_are_enough(node: Node, fresh: str, flags: tuple[str, ...]) -> None:
    applied = run(node, fresh, *flags)
    assert applied.returncode == 0, applied.stderr
    assert held(fresh) == wanted(node, fresh, *flags)


def test_another_user_does_it_with_ambient_capabilities(node: Node, fresh: str) -> None:
    applied = run(node, fresh, *FLAGS["TPROXY"], options=(*CAPABLE, "--user=1337:1337"))
    assert applied.returncode == 0, applied.stderr
    assert held(fresh) == wanted(node, fresh, *FLAGS["TPROXY"])


def test_for_nf_tables_one_capability_is_enough(node: Node, fresh: str) -> None:
    options = (*LOCKED, "--cap-add=NET_ADMIN")
    flags = ("--backend", "nft", *FLAGS["TPROXY"])
    for result in ("applied", "unchanged"):
        applied = run(node, fresh, *flags, options=options)
        assert applied.returncode == 0, applied.stderr
        assert f"result={result} backend=nft " in applied.stderr
    assert held(fresh) == {family: {} for family in BOTH}
    printed = run(node, fresh, *flags, "--dry-run", options=LOCKED)
    listed = namespace.run(fresh, ["nft", "list", "ruleset"]).stdout
    assert listed
    listed = re.sub("packets [0-9]+ bytes [0-9]+", "packets 0 bytes 0", listed)
    assert re.sub("^#.*\n", "", printed.stdout, flags=re.M) == listed


def test_every_command_works(node: Node, fresh: str) -> None:
    flags = FLAGS["REDIRECT"]
    for command in (
        flags,
        ("status", *flags),
        ("counters", *flags),
        ("graph", *flags),
        ("prove", *flags),
        ("check", *flags),
        ("validate", *flags),
        ("explain", *flags, "--live", "--to", "192.0.2.1:80"),
        ("--help",),
        ("clean",),
    ):
        done = run(node, fresh, *command)
        assert done.returncode == 0, (command, done.stderr)
    assert held(fresh) == {family: {} for family in BOTH}


@pytest.mark.parametrize("replaced", [False, True], ids=["arguments", "command"])
def test_it_is_fit_for_an_ephemeral_container(node: Node, fresh: str, replaced: bool) -> None:
    """In the network namespace of a pod, with the words behind `kubectl debug … --`, which take the
    place of the entrypoint, or with --arguments-only do not."""
    flags = FLAGS["REDIRECT"]
    assert run(node, fresh, *flags).returncode == 0

    def debug(*words: str, options: tuple[str, ...] = CAPABLE) -> Run:
        if replaced:
            options = (*options, "--entrypoint", json.dumps(["proxy-init", words[0]]))
            words = words[1:]
        return run(node, fresh, *words, options=options)

    described = debug("describe")
    assert described.returncode == 0, described.stderr
    assert shlex.join(("proxy-init", *flags)) in described.stdout
    blind = debug("describe", options=LOCKED)
    assert blind.returncode == 4
    assert "CAP_NET_ADMIN and\n               CAP_NET_RAW (kubectl debug" in blind.stdout
    assert debug("status", *flags).returncode == 0
    live = debug("explain", "--live", "--to", "192.0.2.1:80")
    assert live.stdout.startswith("Captured: ")
    assert "Nobody listens on TCP port" in live.stdout  # which takes no capability to see
    picture = debug("graph", *flags, "--live", "--format", "mermaid")
    assert "never matched" in picture.stdout
    assert debug("validate", *flags).returncode == 0
    for command in ("status", "counters", "explain", "graph"):
        words = {"explain": ("--live", "--to", "192.0.2.1:80"), "graph": ("--live",)}
        refused = debug(command, *flags, *words.get(command, ()), options=LOCKED)
        assert (refused.returncode, refused.stdout) == (4, "")
        assert "missing capability NET_ADMIN and NET_RAW: " in refused.stderr


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ((*LOCKED, "--user=1337:1337"), "NET_ADMIN and NET_RAW"),
        (LOCKED, "NET_ADMIN and NET_RAW"),
        ((*LOCKED, "--cap-add=NET_ADMIN"), "NET_RAW"),
        ((*LOCKED, "--cap-add=NET_RAW", "--user=1337"), "NET_ADMIN"),
    ],
)
def test_without_a_capability_it_says_which(
    node: Node, fresh: str, options: tuple[str, ...], missing: str
) -> None:
    refused = run(node, fresh, *FLAGS["REDIRECT"], options=options)
    assert refused.returncode == 4
    assert f"missing capability {missing}: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert held(fresh) == {family: {} for family in BOTH}


def test_a_second_build_gives_the_same_image(images: Path, contents: Contents) -> None:
    again = "localhost/proxy-init-again"
    with builder() as environment:
        build = (ROOT / "scripts/image", again, "--no-cache")
        inspect = ("podman", "image", "inspect", PROXY_INIT, again)
        try:
            subprocess.run(build, env=environment, check=True, timeout=900)
            first, second = json.loads(subprocess.check_output(inspect, env=environment))
        finally:
            subprocess.run(("podman", "rmi", "--force", again), env=environment, check=False)
    assert second["RootFS"] == first["RootFS"]
    assert second["Id"] == first["Id"]
    assert len({entry.time for entry in contents.values()}) == 1
