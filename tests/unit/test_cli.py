"""The program as it is called: what it prints where, and its exit status."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from proxy_init import __version__
from proxy_init.cli.commands import COMMANDS, EXAMPLES, Example
from proxy_init.config.flags import FLAG_GROUPS, FLAGS
from proxy_init.config.read import read_config
from proxy_init.errors import NodeCannot

from .conftest import Call
from .fakes import BARE_MACHINE

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]

USUAL = ("-u", "1337", "-i", "*", "-b", "*", "-d", "15090", "--no-ipv6")


def test_a_dry_run_prints_each_family_under_its_heading(call: Call, capsys: Captured) -> None:
    assert call("--dry-run", *USUAL[:-1], "--ipv6") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["# IPv4", "*nat"]
    assert lines[lines.index("# IPv6") + 1] == "*nat"
    routing = "# ip -6 address add ::6/128 dev lo"
    assert [line for line in lines if line.startswith("#")] == ["# IPv4", "# IPv6", routing]
    assert lines.count("COMMIT") == 2


def test_a_dry_run_of_one_family_is_a_part_of_that_of_both(call: Call, capsys: Captured) -> None:
    printed = []
    for flags in ((), ("-4",), ("-6",)):
        assert call("-n", *flags, *USUAL[:-1], "--ipv6") == 0
        printed.append(capsys.readouterr().out)
    both, v4, v6 = printed
    assert both == v4 + v6
    assert v4.startswith("# IPv4\n")
    assert v6.startswith("# IPv6\n")


def test_a_family_that_is_not_built_has_a_heading_only(call: Call, capsys: Captured) -> None:
    assert call("-n", "-6", *USUAL) == 0
    assert capsys.readouterr().out == "# IPv6\n"


def test_the_leading_word_of_today_s_manifests_changes_nothing(
    call: Call, capsys: Captured
) -> None:
    assert call("-n", *USUAL) == 0
    bare = capsys.readouterr().out
    assert call("istio-iptables", "-n", *USUAL) == 0
    assert capsys.readouterr().out == bare


def test_the_word_istio_iptables_is_accepted_only_in_front(call: Call, capsys: Captured) -> None:
    assert call("-n", *USUAL, "istio-iptables") == 2
    assert "'istio-iptables'" in capsys.readouterr().err


def test_a_dry_run_in_mode_none_shows_no_rules(call: Call, capsys: Captured) -> None:
    assert call("-n", "-m", "NONE", *USUAL) == 0
    assert capsys.readouterr().out == "# IPv4\n# IPv6\n"


@pytest.mark.parametrize("flags", [("-m", "NONE"), ("--skip-rule-apply",)], ids=" ".join)
def test_a_run_that_writes_nothing_succeeds_with_the_result_unchanged(
    flags: tuple[str, ...], call: Call, capsys: Captured
) -> None:
    assert call(*USUAL, *flags) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "result=unchanged" in err.splitlines()[-1]


def test_the_log_goes_to_stderr_and_holds_warnings_and_notes(call: Call, capsys: Captured) -> None:
    assert call("-n", *USUAL, "-b", "80", "--vklog", "9") == 0
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in err.splitlines()]
    assert [level for _, level, text in lines if "-d: has an effect only with" in text] == ["warn"]
    assert [level for _, level, text in lines if "--vklog" in text] == ["info"]
    assert "vklog" not in out


@pytest.mark.parametrize(
    ("level", "levels"),
    [("info", {"info", "warn"}), ("default:warn", {"warn"}), ("error", set()), ("none", set())],
)
def test_the_log_has_the_messages_of_its_level_and_above(
    level: str, levels: set[str], call: Call, capsys: Captured
) -> None:
    assert call("-n", *USUAL, "-b", "80", f"--log_output_level={level}") == 0
    assert {line.split("\t")[1] for line in capsys.readouterr().err.splitlines()} == levels


def test_the_log_may_be_json(call: Call, capsys: Captured) -> None:
    assert call("-m", "NONE", "-d", "22", "--no-ipv6", "--log_as_json") == 0
    objects = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {item["level"] for item in objects} == {"info", "warn"}
    assert objects[-1]["result"] == "unchanged"


def test_names_cannot_forge_lines_of_the_log(call: Call, capsys: Captured) -> None:
    # The kernel takes such a name, and it has line breaks for some readers.
    assert call("-n", *USUAL, "-c", "a\x85b\u2028c\x1b") == 0
    err = capsys.readouterr().err.removesuffix("\n")
    assert err.split("\n") == err.splitlines()
    assert "\x1b" not in err


def test_an_error_before_applying_is_logged_too(
    call: Call, capsys: Captured, monkeypatch: pytest.MonkeyPatch, last_words: Path
) -> None:
    def enter(name: str, source: str = "") -> None:
        raise NodeCannot("that takes CAP_SYS_ADMIN")

    monkeypatch.setattr("proxy_init.kernel.system.namespace.enter", enter)
    assert call(*USUAL, "--network-namespace", "pod") == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "that takes CAP_SYS_ADMIN" in err
    assert last_words.read_text() == "that takes CAP_SYS_ADMIN"


def test_output_that_cannot_be_written_is_a_reported_failure() -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "proxy_init", "-n", *USUAL],
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_the_version_is_printed(call: Call, capsys: Captured) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def sections(text: str) -> dict[str, str]:
    """The parts of a help text by their headings; the headings are in the order of the text."""
    parts = re.split(r"^(\S.*):$\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("words", [("-h",), ("--help",), *((name, "-h") for name in COMMANDS)])
def test_the_help_lists_every_flag_under_the_heading_of_its_group(
    words: tuple[str, ...], call: Call, capsys: Captured
) -> None:
    assert call(*words) == 0
    parts = sections(capsys.readouterr().out)
    assert list(FLAG_GROUPS) == [heading for heading in parts if heading in FLAG_GROUPS]
    for heading, flags in FLAG_GROUPS.items():
        shown = re.findall(r"^  (-.*?)(?:  |$)", parts[heading], flags=re.M)
        spelled = [re.findall(r"(?<![\w-])--?\w[\w-]*", line) for line in shown]
        assert spelled == [f"{flag.spellings} {flag.opposite}".split() for flag in flags]


def test_the_help_says_what_each_flag_is_its_default_and_its_variables(
    call: Call, capsys: Captured
) -> None:
    assert call("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in FLAGS:
        if flag.retired or flag.name == "help":
            continue
        assert flag.help in text
        if flag.default not in ("", "off"):
            assert f"{flag.help} [default: {flag.default}]" in text
        if flag.variables:
            assert f"[env var: {', '.join(flag.variables.split())}]" in text


def test_the_help_begins_with_the_commands_and_three_examples(call: Call, capsys: Captured) -> None:
    assert call("--help") == 0
    parts = sections(capsys.readouterr().out)
    assert list(parts)[:2] == ["Commands", "Examples"]
    assert re.findall(r"^  (\w+(?: \w+)?)", parts["Commands"], flags=re.M) == list(COMMANDS)
    assert len(re.findall(r"^  proxy-init ", parts["Examples"], flags=re.M)) == 3


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=str)
def test_the_help_fits_a_terminal(words: tuple[str, ...], call: Call, capsys: Captured) -> None:
    assert call(*words, "--help") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    "example",
    [*EXAMPLES, *(command.example for command in COMMANDS.values())],
    ids=lambda example: example.call,
)
def test_the_examples_of_the_help_are_calls_that_the_program_takes_without_a_warning(
    example: Example,
) -> None:
    words = shlex.split(example.call)
    command = max((name for name in COMMANDS if example.call.startswith(name)), key=len, default="")
    options = COMMANDS[command].options if command else ()
    del words[: len(command.split())]
    assert read_config(words, {}, BARE_MACHINE, options).warnings == ()


# Options that only one command has.


def test_errors_in_the_options_of_a_command_are_reported_with_the_others(
    call: Call, capsys: Captured
) -> None:
    assert call("graph", "--format", "png", "-p", "0", "--no-ipv6") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == [
        "proxy-init: --format: got 'png', expected tree or mermaid or dot or svg",
        "proxy-init: -p: got '0', expected a port from 1 to 65535",
    ]


def test_an_option_without_its_value_says_so(call: Call, capsys: Captured) -> None:
    assert call("graph", "--format") == 2
    assert capsys.readouterr().err == "proxy-init: --format: expected a value after it\n"
    assert call("graph", "--format", "-p", "7") == 2
    assert "--format took the next flag as its value" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--format", "dot"), ("status", "--format", "dot")])
def test_other_commands_do_not_have_them(
    words: tuple[str, ...], call: Call, capsys: Captured
) -> None:
    assert call(*words, "--no-ipv6") == 2
    assert "expected a flag of proxy-init" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "option"), [("graph", "--format"), ("counters", "--watch")])
def test_the_help_of_a_command_lists_its_own_options_and_the_flags(
    command: str, option: str, call: Call, capsys: Captured
) -> None:
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert option in shown and "--envoy-port" in shown
    assert call("--help") == 0
    general = capsys.readouterr().out
    assert command in general and option not in general


def test_the_entry_point_runs_as_a_file_too() -> None:
    # As the image starts it, with what it is told to leave out.
    file = ROOT / "proxy_init" / "__main__.py"
    command = [sys.executable, "-I", "-S", str(file), "-n", "-4", *USUAL]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    module = [sys.executable, "-m", "proxy_init", "-n", "-4", *USUAL]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    same = subprocess.run(
        module, capture_output=True, text=True, timeout=60, env=environ, check=True
    )
    assert result.stdout == same.stdout != ""
