"""Calls that are refused: each mistake is one line that says where, what, and what is allowed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import Call
from .fakes import complaints, read

ROOT = Path(__file__).resolve().parents[2]


def refused(name: str, argv: Sequence[str], *words: str, **environ: str) -> object:
    """A row of the table: the call, the words that the line must hold, the variables.

    The first of `words` is the flag or variable that the line begins with.
    """
    return pytest.param(argv, environ, words[0], words[1:], id=name)


PORT, UID, GID = "a port from 1 to 65535", "0 to 4294967294", "0 to 4294967294"
NAME, MARK = "1 to 15 bytes", "1 to 4294967295"
GROUPS, NO_GROUPS = "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"
LOOPBACK = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"

BAD_CALLS = [
    # Ports.
    refused("port-zero", ["-p", "0"], "-p", "'0'", PORT),
    refused("port-too-high", ["-p", "65536"], "-p", "'65536'", PORT),
    refused("port-negative", ["-p", "-1"], "-p", "'-1'", PORT),
    refused("port-with-sign", ["-p", "+80"], "-p", "'+80'", PORT),
    refused("port-with-letter", ["-p", "15001x"], "-p", "'15001x'", PORT),
    refused("port-hexadecimal", ["-p", "0x50"], "-p", "'0x50'", PORT),
    refused("port-fraction", ["-p", "80.0"], "-p", "'80.0'", PORT),
    refused("port-python-number", ["-p", "8_0"], "-p", "'8_0'", PORT),
    refused("port-full-width-digits", ["-p", "\uff18\uff10"], "-p", "\uff18\uff10", PORT),
    refused("port-leading-zero", ["-p", "08080"], "-p", "'08080'", PORT, "leading 0"),
    refused("port-of-many-digits", ["-p", "9" * 5000], "-p", "'9999", PORT),
    refused("port-list-for-one-port", ["-p", "80,81"], "-p", "'80,81'", PORT),
    refused("port-name", ["--envoy-port=http"], "--envoy-port", "'http'", PORT),
    refused("port-everything", ["-p", "*"], "-p", "'*'", PORT),
    refused("inbound-capture-port", ["-z", "none"], "-z", "'none'", PORT),
    refused("tunnel-port", ["-e", "70000"], "-e", "'70000'", PORT),
    refused("probe-port", ["--iptables-probe-port", "0"], "--iptables-probe-port", "'0'", PORT),
    refused("port-variable", [], "ENVOY_PORT", "'15001/tcp'", PORT, ENVOY_PORT="15001/tcp"),
    # Lists of ports.
    refused("ports-too-high-with-zeros", ["-b", "0065536"], "-b", "65536'", PORT),
    refused("ports-one-of-many", ["-b", "8080,http,9090"], "-b", "'http'", PORT),
    refused("ports-range-hyphen", ["-b", "8000-9000"], "-b", "'8000-9000'", PORT, "ranges"),
    refused("ports-range-colon", ["-d", "8000:9000"], "-d", "'8000:9000'", PORT, "ranges"),
    refused("ports-blank-between", ["-d", "8080 9090"], "-d", "'8080 9090'", PORT),
    refused("ports-semicolon", ["-o", "8080;9090"], "-o", "'8080;9090'", PORT),
    refused("ports-star-among-others", ["-b", "*,8080"], "-b", "'*'", PORT),
    refused("ports-star-excluded", ["-d", "*"], "-d", "'*'", PORT),
    refused("ports-star-outbound", ["-q", "*"], "-q", "'*'", PORT),
    refused("ports-quoted", ["-b", "'*'"], "-b", "'*'", PORT),
    refused(
        "ports-file-missing", ["-b", "@/no/such/file"], "-b", "@/no/such/file", "readable file"
    ),
    refused("ports-variable", [], "ISTIO_INBOUND_PORTS", "'all'", PORT, ISTIO_INBOUND_PORTS="all"),
    # Lists of CIDRs.
    refused(
        "cidr-length-too-long", ["-i", "10.0.0.0/33"], "-i", "'10.0.0.0/33'", "CIDR", "0 to 32"
    ),
    refused("cidr-v6-too-long", ["-x", "fd00::/129"], "-x", "'fd00::/129'", "CIDR", "0 to 128"),
    refused("cidr-length-negative", ["-x", "10.0.0.0/-1"], "-x", "'10.0.0.0/-1'", "CIDR"),
    refused("cidr-length-missing", ["-x", "10.0.0.0/"], "-x", "'10.0.0.0/'", "CIDR"),
    refused("cidr-length-leading-zero", ["-x", "10.0.0.0/08"], "-x", "'10.0.0.0/08'", "CIDR"),
    refused("cidr-netmask", ["-x", "10.0.0.0/255.0.0.0"], "-x", "'10.0.0.0/255.0.0.0'", "CIDR"),
    refused("cidr-two-lengths", ["-x", "10.0.0.0/8/8"], "-x", "'10.0.0.0/8/8'", "CIDR"),
    refused("cidr-three-octets", ["-i", "10.0.0/8"], "-i", "'10.0.0/8'", "CIDR"),
    refused("cidr-octet-too-large", ["-i", "10.0.0.256"], "-i", "'10.0.0.256'", "CIDR"),
    refused("cidr-octet-leading-zero", ["-i", "10.0.0.010"], "-i", "'10.0.0.010'", "CIDR"),
    refused("cidr-v6-two-gaps", ["-i", "fd00::1::/64"], "-i", "'fd00::1::/64'", "CIDR"),
    refused("cidr-brackets", ["-i", "[fd00::]/8"], "-i", "'[fd00::]/8'", "CIDR"),
    refused("cidr-zone", ["-i", "fe80::1%eth0"], "-i", "'fe80::1%eth0'", "%zone"),
    refused("cidr-name", ["-x", "db.example.com"], "-x", "'db.example.com'", "names"),
    refused("cidr-star-among-others", ["-i", "10.0.0.0/8,*"], "-i", "'*'", "alone"),
    refused("cidr-star-excluded", ["-x", "*"], "-x", "'*'", "CIDR"),
    refused("cidr-blank-between", ["-x", "10.0.0.0/8 fd00::/8"], "-x", "'10.0.0.0/8 fd00::/8'"),
    refused("cidr-file-is-a-directory", ["-x", "@/"], "-x", "'@/'", "readable file"),
    refused("cidr-file-without-name", ["-x", "@"], "-x", "'@'", "readable file"),
    refused("cidr-with-a-rule-behind", ["-x", "10.0.0.0/8\n-A INPUT"], "-x", r"/8\n-A INPUT'"),
    refused("cidr-with-escapes", ["-x", "\x1b[2J\x07"], "-x", r"'\x1b[2J\x07'", "CIDR"),
    # Users and groups.
    refused("uid-too-high", ["-u", "4294967295"], "-u", "'4294967295'", UID),
    refused("uid-negative", ["-u", "-5"], "-u", "'-5'", UID),
    refused("uid-leading-zero", ["-u", "01337"], "-u", "'01337'", UID, "leading 0"),
    refused("uid-range", ["-u", "1000-2000"], "-u", "'1000-2000'", UID),
    refused("uid-with-gid", ["-u", "1337:1337"], "-u", "'1337:1337'", UID),
    refused("user-unknown", ["-u", "nobody-here"], "-u", "'nobody-here'", "no such user"),
    refused("user-star", ["-u", "*"], "-u", "'*'", UID),
    refused("gid-too-high", ["-g", "4294967295"], "-g", "'4294967295'", GID),
    refused("group-unknown", ["-g", "nobody-here"], "-g", "'nobody-here'", "no such group"),
    refused("user-variable", [], "PROXY_UID", "'-1'", UID, PROXY_UID="-1"),
    # Interfaces.
    refused("interface-blank", ["-c", "eth 0"], "-c", "'eth 0'", NAME),
    refused("interface-tab", ["-c", "eth\t0"], "-c", r"'eth\t0'", NAME),
    refused("interface-too-long", ["-c", "sixteen-bytes-if"], "-c", "'sixteen-bytes-if'", NAME),
    refused("interface-too-long-in-bytes", ["-c", "é" * 8], "-c", "é" * 8, NAME),
    refused("interface-too-long-prefix", ["-k", "fifteen-bytes-a+"], "-k", NAME),
    refused("interface-slash", ["-k", "a/b"], "-k", "'a/b'", NAME),
    refused("interface-alias", ["-k", "eth0:1"], "-k", "'eth0:1'", NAME),
    refused("interface-parent", ["-k", ".."], "-k", "'..'", NAME),
    refused("interface-quote", ["-c", "a'b"], "-c", "a'b", NAME),
    refused("interface-double-quote", ["-c", 'a"b'], "-c", 'a"b', NAME),
    refused("interface-backslash", ["-c", "a\\b"], "-c", r"'a\\b'", NAME),
    refused("interface-leading-hyphen", ["-c", "-eth0"], "-c", "'-eth0'", "not starting with"),
    refused("interface-negated", ["-c", "!eth0"], "-c", "'!eth0'", "not starting with"),
    # Single values.
    refused("mode-unknown", ["-m", "CAPTURE"], "-m", "'CAPTURE'", "REDIRECT", "TPROXY", "NONE"),
    refused("mode-lower-case", ["-m", "redirect"], "-m", "'redirect'", "did you mean REDIRECT?"),
    refused("mark-zero", ["-t", "0"], "-t", "'0'", MARK),
    refused("mark-zero-hexadecimal", ["-t", "0x0"], "-t", "'0x0'", MARK),
    refused("mark-too-high", ["-t", "4294967296"], "-t", "'4294967296'", MARK),
    refused("mark-too-high-hexadecimal", ["-t", "0x100000000"], "-t", "'0x100000000'", MARK),
    refused("mark-with-mask", ["-t", "0x1/0xff"], "-t", "'0x1/0xff'", MARK),
    refused("route-table-zero", ["-r", "0"], "-r", "'0'", "253 to 255"),
    refused("route-table-main", ["-r", "254"], "-r", "'254'", "253 to 255", "the system uses"),
    refused("route-table-local", ["-r", "255"], "-r", "'255'", "253 to 255", "the system uses"),
    refused("route-table-default", ["-r", "253"], "-r", "'253'", "253 to 255"),
    refused("route-table-name", ["-r", "main"], "-r", "'main'", "1 to 4294967295"),
    refused("timeout-without-unit", ["--probe-timeout", "5"], "--probe-timeout", "'5'", "500ms"),
    refused("timeout-zero", ["--probe-timeout", "0s"], "--probe-timeout", "'0s'", "duration"),
    refused("timeout-negative", ["--probe-timeout=-5s"], "--probe-timeout", "'-5s'", "duration"),
    refused("wait-negative", ["--wait", "-1"], "--wait", "'-1'", "seconds"),
    refused("wait-duration", ["--wait", "5s"], "--wait", "'5s'", "seconds"),
    refused("level", ["--log_output_level=loud"], "--log_output_level", "'loud'", "debug", "none"),
    refused("level-of-scope", ["--log-level", "xds:loud"], "--log-level", "'xds:loud'", "info"),
    refused("backend", ["--backend=iptables"], "--backend", "'iptables'", "auto", "legacy", "nft"),
    refused("backend-upper-case", ["--backend", "NFT"], "--backend", "'NFT'", "did you mean nft?"),
    refused("binary", ["--force-iptables-binary=x"], "--force-iptables-binary", "'x'", "legacy"),
    refused("tree", ["--cidr-tree=yes"], "--cidr-tree", "'yes'", "auto", "never", "always"),
    refused("rule-set", ["--ruleset", "2.0"], "--ruleset", "'2.0'", "current", "1.0"),
    refused("output", ["--output", "yaml"], "--output", "'yaml'", "text", "json"),
    # Switches.
    refused("switch-yes", ["--drop-invalid=yes"], "--drop-invalid", "'yes'", "true or false"),
    refused("switch-on", ["--drop-invalid=on"], "--drop-invalid", "'on'", "true or false"),
    refused("switch-variable", [], "DROP_INVALID", "'2'", "yes, no, on, off", DROP_INVALID="2"),
    refused("switch-all", ["--redirect-dns=ALL"], "--redirect-dns", "'ALL'", "true or false"),
    refused("switch-all-variable", [], "DUAL_STACK", "'ALL'", "true or false", DUAL_STACK="ALL"),
    refused("switch-short", ["-n=maybe"], "-n", "'maybe'", "true or false"),
    refused("switch-opposite", ["--no-ipv6=2"], "--no-ipv6", "'2'", "true or false"),
    refused(
        "switch-ipv6-word", [], "ENABLE_INBOUND_IPV6", "'v6'", "true", ENABLE_INBOUND_IPV6="v6"
    ),
    refused("level-case", ["--log-level=INFO"], "--log-level", "'INFO'", "info"),
    refused("level-synonym", ["--log-level=warning"], "--log-level", "'warning'", "warn"),
    refused(
        "mode-variable",
        [],
        "ISTIO_INBOUND_INTERCEPTION_MODE",
        "'TRANSPARENT'",
        "TPROXY",
        ISTIO_INBOUND_INTERCEPTION_MODE="TRANSPARENT",
    ),
    refused("switch-retired", ["-f=perhaps"], "-f", "'perhaps'", "true or false"),
    # The command line itself.
    refused("flag-unknown", ["--no-such=1"], "command line", "'--no-such'", "--help"),
    refused("flag-misspelt", ["--envoy-prot=1"], "command line", "did you mean --envoy-port?"),
    refused("flag-unknown-short", ["-w"], "command line", "'-w'"),
    refused("word-stray", ["8080"], "command line", "'8080'", "expected a flag"),
    refused("word-empty", [""], "command line", "''", "expected a flag"),
    refused("word-end-of-flags", ["--"], "command line", "'--'", "expected a flag"),
    refused("value-missing", ["-p"], "-p", "expected a value"),
    refused("value-missing-long", ["-n", "--wait"], "--wait", "expected a value"),
    # A flag without its value takes the next one.
    refused("swallowed-networks", ["-x", "-b8080"], "-x", "'-b8080'", "took the next flag"),
    refused("swallowed-port", ["-p", "--dry-run"], "-p", "'--dry-run'", "took the next flag"),
    refused("swallowed-users", ["-u", "-g1337"], "-u", "'-g1337'", "took the next flag"),
    refused("swallowed-names", ["-c", "-k"], "-c", "'-k'", "took the next flag"),
    refused("swallowed-mode", ["-m", "-n"], "-m", "'-n'", "took the next flag"),
    refused("swallowed-format", ["-O", "-n"], "-O", "'-n'", "took the next flag"),
    # Variables without a flag.
    refused("groups-unknown", [], GROUPS, "'nobody-here'", "group", **{GROUPS: "nobody-here"}),
    refused("groups-star-among-others", [], GROUPS, "'*'", "alone", **{GROUPS: "*,1000"}),
    refused("groups-too-many", [], GROUPS, "64", "65", **{GROUPS: ",".join(map(str, range(65)))}),
    refused("groups-both-lists", [], NO_GROUPS, GROUPS, **{GROUPS: "1", NO_GROUPS: "2"}),
    refused("groups-excluded-star", [], NO_GROUPS, "'*'", GID, **{NO_GROUPS: "*"}),
    refused("loopback-elsewhere", [], LOOPBACK, "'10.0.0.0/8'", **{LOOPBACK: "10.0.0.0/8"}),
    refused("loopback-too-wide", [], LOOPBACK, "'127.0.0.0/7'", **{LOOPBACK: "127.0.0.0/7"}),
    refused("loopback-v6", [], LOOPBACK, "'::1/128'", "127.0.0.0/8", **{LOOPBACK: "::1/128"}),
    refused("loopback-name", [], LOOPBACK, "'localhost'", **{LOOPBACK: "localhost"}),
    # Good alone, wrong together.
    refused("one-family-without-dry-run", ["-4"], "-4", "--dry-run"),
    refused("v6-only-without-dry-run", ["--ipv6-only"], "--ipv6-only", "--dry-run"),
    refused("neither-family", ["-n", "-4", "-6"], "-4", "-6", "both"),
    refused("strict", ["--strict", "-d", "22"], "--strict", "-d", "-b '*'"),
]

each_bad_call = pytest.mark.parametrize(("argv", "environ", "source", "words"), BAD_CALLS)


def test_the_table_is_long_enough() -> None:
    assert len(BAD_CALLS) >= 50


@each_bad_call
def test_an_error_is_one_line_that_says_where_what_and_what_is_allowed(
    argv: list[str], environ: dict[str, str], source: str, words: tuple[str, ...]
) -> None:
    [line] = complaints(*argv, **environ)
    assert line.startswith(f"{source}: ")
    assert [word for word in words if word not in line] == [], line
    assert line.isprintable()
    assert len(line) < 300


@each_bad_call
def test_the_program_says_so_on_stderr_and_exits_with_2(
    argv: list[str],
    environ: dict[str, str],
    source: str,
    words: tuple[str, ...],
    call: Call,
    capsys: pytest.CaptureFixture[str],
    last_words: Path,
) -> None:
    status = call(*argv, **environ)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    [line] = err.removesuffix("\n").split("\n")
    assert line.startswith(f"proxy-init: {source}: ")
    assert [word for word in words if word not in line] == [], line
    assert f"proxy-init: {last_words.read_text()}" == line


SEVERAL = ["-p", "0", "-b", "http,80,99999", "--no-such=1", "-m", "redirect", "stray", "-x"]
SEVERAL_SOURCES = ["command line", "command line", "-x", "-p", "-m", "-b", "-b", "DROP_INVALID"]


def test_all_errors_of_a_call_are_reported_together() -> None:
    lines = complaints(*SEVERAL, DROP_INVALID="2")
    assert sorted(line.partition(":")[0] for line in lines) == sorted(SEVERAL_SOURCES)


def test_an_error_and_a_contradiction_are_reported_together() -> None:
    lines = complaints("-4", "-p", "x", ISTIO_OUTBOUND_OWNER_GROUPS="*,5")
    assert len(lines) == 3


def test_a_long_list_of_errors_is_cut_and_counted() -> None:
    lines = complaints("-b", ",".join(f"x{n}" for n in range(1000)), "-p", "y")
    assert len(lines) < 20
    assert any("990 more" in line for line in lines)
    assert any(line.startswith("-p: ") for line in lines)


def test_the_flag_that_swallowed_the_next_one_is_named_although_its_value_is_left_over() -> None:
    lines = complaints("-i", "*", "-x", "-b", "*")
    [line] = [line for line in lines if line.startswith("-x: ")]
    assert "'-b'" in line
    assert '-x took the next flag as its value; write -x "" for none' in line


def test_a_variable_does_not_get_the_hint_about_the_next_flag() -> None:
    [line] = complaints(ISTIO_SERVICE_EXCLUDE_CIDR="-b")
    assert "took the next flag" not in line


def test_in_mode_tproxy_the_outbound_mark_is_refused() -> None:
    lines = complaints("-m", "TPROXY", "-t", "1338")
    assert any(line.startswith("-t: ") and "1338" in line for line in lines)
    lines = complaints(ISTIO_INBOUND_TPROXY_MARK="0x53a", ISTIO_INBOUND_INTERCEPTION_MODE="TPROXY")
    assert any(line.startswith("ISTIO_INBOUND_TPROXY_MARK: ") for line in lines)
    assert read("-t", "1338").tproxy_mark == 1338


@pytest.mark.parametrize("namespace", ["/no/such/namespace", "no-such-namespace", "/dev/null", "/"])
@pytest.mark.parametrize("source", ["--network-namespace", "NETWORK_NAMESPACE"])
def test_a_file_that_is_not_a_namespace_is_an_error_of_the_call(
    namespace: str, source: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    as_flag = source.startswith("-")
    argv = [source, namespace] if as_flag else []
    status = call("--dry-run", "--no-ipv6", *argv, **{} if as_flag else {source: namespace})
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith(f"proxy-init: {source}: got '{namespace}', expected a network namespace")
    assert err.count("\n") == 1


def test_the_program_as_a_person_runs_it() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "proxy_init", "istio-iptables", *SEVERAL],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "DROP_INVALID": "2"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert len(lines) == len(SEVERAL_SOURCES)
    assert all(line.startswith("proxy-init: ") for line in lines)


def test_invalid_utf_8_is_an_error_like_any_other() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "proxy_init", "-p", b"\xff\xfe", b"-\xff", "-c", b"a\xffb "],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "ENVOY_USER": "\udcff"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, b"")
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith(b"proxy-init: ") for line in lines)
