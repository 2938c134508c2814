"""The table of flags, and how a command line is split by it."""

import pytest

from proxy_init.config.command_line import is_flag, split
from proxy_init.config.flags import FLAGS, Flag

from .fakes import complaints, read

# What scripts and injectors rely on, written down a second time: spellings, variables.
TAKING_A_VALUE = [
    ("-p --envoy-port", "ENVOY_PORT"),
    ("-z --inbound-capture-port", "INBOUND_CAPTURE_PORT"),
    ("-e --inbound-tunnel-port", "INBOUND_TUNNEL_PORT"),
    ("-u --proxy-uid", "PROXY_UID"),
    ("-g --proxy-gid", "PROXY_GID"),
    ("-m --istio-inbound-interception-mode", "ISTIO_INBOUND_INTERCEPTION_MODE"),
    ("-b --istio-inbound-ports", "ISTIO_INBOUND_PORTS"),
    ("-d --istio-local-exclude-ports", "ISTIO_LOCAL_EXCLUDE_PORTS"),
    ("-i --istio-service-cidr", "ISTIO_SERVICE_CIDR"),
    ("-x --istio-service-exclude-cidr", "ISTIO_SERVICE_EXCLUDE_CIDR"),
    ("-q --istio-outbound-ports", "ISTIO_OUTBOUND_PORTS"),
    ("-o --istio-local-outbound-ports-exclude", "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"),
    ("-c --istio-exclude-interfaces", "ISTIO_EXCLUDE_INTERFACES"),
    ("-k --kube-virt-interfaces", "KUBE_VIRT_INTERFACES"),
    ("-t --istio-inbound-tproxy-mark", "ISTIO_INBOUND_TPROXY_MARK"),
    ("-r --istio-inbound-tproxy-route-table", "ISTIO_INBOUND_TPROXY_ROUTE_TABLE"),
    ("--istio-outbound-owner-groups", "ISTIO_OUTBOUND_OWNER_GROUPS"),
    ("--istio-outbound-owner-groups-exclude", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"),
    ("--istio-outbound-ipv4-loopback-cidr", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"),
    ("--dns-servers", ""),
    ("--network-namespace", "NETWORK_NAMESPACE"),
    ("--pod", ""),
    ("--iptables-probe-port", "IPTABLES_PROBE_PORT"),
    ("--probe-timeout", "PROBE_TIMEOUT"),
    ("--ruleset", "PROXY_INIT_RULESET"),
    ("--log_output_level --log-level", "LOG_LEVEL"),
    ("--backend", "PROXY_INIT_BACKEND"),
    ("--cidr-tree", "PROXY_INIT_CIDR_TREE"),
    ("--wait", "PROXY_INIT_WAIT"),
    ("-O --output", ""),
]
SWITCHES = [
    ("-n --dry-run", "DRY_RUN"),
    ("-4 --ipv4-only", ""),
    ("-6 --ipv6-only", ""),
    ("--ipv6 --no-ipv6", "ENABLE_INBOUND_IPV6"),
    ("--dual-stack", "DUAL_STACK ISTIO_DUAL_STACK"),
    ("--redirect-dns", "REDIRECT_DNS ISTIO_META_DNS_CAPTURE"),
    ("--capture-all-dns", "CAPTURE_ALL_DNS"),
    ("--drop-invalid", "DROP_INVALID INVALID_DROP"),
    ("--reconcile --no-reconcile", "RECONCILE"),
    ("--force-apply", "FORCE_APPLY"),
    ("--cleanup-only", "CLEANUP_ONLY"),
    ("--skip-rule-apply", "SKIP_RULE_APPLY"),
    ("--run-validation", "RUN_VALIDATION"),
    ("--cni-mode", "CNI_MODE"),
    ("--native-nftables", "NATIVE_NFTABLES"),
    ("--comments", "PROXY_INIT_COMMENTS"),
    ("--log_as_json", "LOG_AS_JSON"),
    ("--strict", "PROXY_INIT_STRICT"),
]
EITHER = [("--force-iptables-binary", "FORCE_IPTABLES_BINARY")]
RETIRED_TAKING_A_VALUE = [
    "--output-paths",
    "--iptables-version",
    "--log_target",
    "--log_caller",
    "--log_stacktrace_level",
    "--vklog",
]
RETIRED_SWITCHES = ["-f --restore-format", "--iptables-trace-logging", "--host-nsenter-exec"]
OF_EVERY_PROGRAM = ["-h --help", "--version"]

each_taking_a_value = pytest.mark.parametrize(
    "spellings",
    [row[0] for row in TAKING_A_VALUE] + RETIRED_TAKING_A_VALUE,
)
each_switch = pytest.mark.parametrize(
    "spellings", [row[0] for row in SWITCHES] + RETIRED_SWITCHES + OF_EVERY_PROGRAM
)


def flag_spelled(spelling: str) -> Flag:
    [flag] = [flag for flag in FLAGS if spelling in f"{flag.spellings} {flag.opposite}".split()]
    return flag


def given(*words: str) -> dict[str, str]:
    """What a command line without mistakes gives, by the flag's name."""
    line = split(words)
    assert line.mistakes == ()
    return {name: value.text for name, value in line.given.items()}


# The table.


@pytest.mark.parametrize(
    ("spellings", "variables"),
    TAKING_A_VALUE + SWITCHES + EITHER,
    ids=lambda words: words.split()[-1] if words else "no-variable",
)
def test_each_flag_has_its_spellings_and_variables(spellings: str, variables: str) -> None:
    flag = flag_spelled(spellings.split()[0])
    assert f"{flag.spellings} {flag.opposite}".split() == spellings.split()
    assert flag.variables.split() == variables.split()
    assert not flag.retired


def test_there_are_no_other_flags() -> None:
    expected = [row[0] for row in TAKING_A_VALUE + SWITCHES + EITHER]
    expected += RETIRED_TAKING_A_VALUE + RETIRED_SWITCHES + OF_EVERY_PROGRAM
    found = [f"{flag.spellings} {flag.opposite}".split() for flag in FLAGS]
    assert sorted(found) == sorted(words.split() for words in expected)


def test_no_spelling_and_no_variable_stands_for_two_flags() -> None:
    words = [w for flag in FLAGS for w in f"{flag.spellings} {flag.opposite}".split()]
    variables = [name for flag in FLAGS for name in flag.variables.split()]
    assert len(set(words)) == len(words)
    assert len(set(variables)) == len(variables)


@pytest.mark.parametrize("spellings", RETIRED_SWITCHES + RETIRED_TAKING_A_VALUE)
def test_retired_flags_are_accepted_and_named_once(spellings: str) -> None:
    for spelling in spellings.split():
        value = ["some value"] if spellings in RETIRED_TAKING_A_VALUE else []
        config = read(spelling, *value, spelling, *value, "-p", "5")
        assert config.outbound_port == 5
        [note] = config.notes
        assert spelling in note
        assert "no effect" in note


def test_flags_with_an_effect_are_not_reported_as_ineffective() -> None:
    assert read("-p", "1", "-n", "--comments", "--wait", "3").notes == ()


@pytest.mark.parametrize(
    "words",
    [
        ("--cni-mode",),
        ("--force-iptables-binary",),
        ("--force-iptables-binary=true",),
    ],
    ids=" ".join,
)
def test_flags_without_effect_are_named_once(words: tuple[str, ...]) -> None:
    config = read(*words, *words)
    [note] = config.notes
    assert words[0].partition("=")[0] in note
    assert "no effect" in note
    assert config.backend == "auto"


@pytest.mark.parametrize(
    ("words", "backend"),
    [
        (("--native-nftables",), "nft"),
        (("--force-iptables-binary", "legacy"), "legacy"),
        (("--force-iptables-binary", "nft"), "nft"),
        (("--force-iptables-binary=nft",), "nft"),
        (("--native-nftables", "--force-iptables-binary=legacy"), "legacy"),
        (("--native-nftables", "--backend", "legacy"), "legacy"),
        (("--native-nftables=false",), "auto"),
    ],
    ids=str,
)
def test_flags_of_the_peers_that_name_a_backend_choose_it(
    words: tuple[str, ...], backend: str
) -> None:
    config = read(*words)
    assert config.backend == backend
    assert all(" is treated as --backend " in note for note in config.notes)


# Spellings, as pflag takes them.


@each_taking_a_value
def test_a_value_follows_or_is_attached(spellings: str) -> None:
    for spelling in spellings.split():
        name = flag_spelled(spelling).name
        assert given(spelling, "8080") == {name: "8080"}
        assert given(f"{spelling}=8080") == {name: "8080"}
        if not spelling.startswith("--"):
            assert given(f"{spelling}8080") == {name: "8080"}


@each_switch
def test_a_switch_takes_a_value_only_after_an_equals_sign(spellings: str) -> None:
    for spelling in spellings.split():
        name = flag_spelled(spelling).name
        assert given(spelling) == {name: "true"}
        assert given(f"{spelling}=true") == {name: "true"}
        assert given(f"{spelling}=false") == {name: "false"}
        # Not `true`: the word after it is a word of its own.
        assert [m.item for m in split([spelling, "false"]).mistakes] == ["false"]


def test_an_equals_sign_inside_a_value_stays() -> None:
    assert given("--log_target=a=b", "-x=c=d", "-oe=f") == {
        "--log_target": "a=b",
        "outbound_excluded_networks": "c=d",
        "outbound_excluded_ports": "e=f",
    }


def test_a_value_may_be_empty() -> None:
    words = ("-d", "", "-x=", "--istio-inbound-ports=")
    assert set(given(*words).values()) == {""}


def test_a_value_may_look_like_a_flag() -> None:
    assert given("-x", "--dry-run", "-n") == {
        "outbound_excluded_networks": "--dry-run",
        "dry_run": "true",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-nf"], {"dry_run": "true", "-f --restore-format": "true"}),
        (["-n46"], {"dry_run": "true", "ipv4_only": "true", "ipv6_only": "true"}),
        (["-n4=false"], {"dry_run": "true", "ipv4_only": "false"}),
        (["-np", "15001"], {"dry_run": "true", "outbound_port": "15001"}),
        (["-np15001"], {"dry_run": "true", "outbound_port": "15001"}),
        (["-np=15001"], {"dry_run": "true", "outbound_port": "15001"}),
        # A flag that takes a value takes all behind it.
        (["-cnf"], {"excluded_interfaces": "nf"}),
    ],
    ids=lambda words: " ".join(words),
)
def test_short_switches_may_share_a_dash(words: list[str], expected: dict[str, str]) -> None:
    assert given(*words) == expected


def test_long_flags_may_not_be_abbreviated() -> None:
    assert split(["--dry"]).mistakes


@pytest.mark.parametrize(
    ("words", "field", "expected"),
    [
        ("-p 1 -p 2", "outbound_port", 2),
        ("-p 1 --envoy-port=2", "outbound_port", 2),
        ("--envoy-port 2 -p1", "outbound_port", 1),
        ("--ipv6 --no-ipv6", "ipv6", False),
        ("--no-ipv6 --ipv6", "ipv6", True),
        ("--ipv6 --ipv6=false", "ipv6", False),
        ("--no-ipv6 --no-ipv6=false", "ipv6", True),
        ("--reconcile --no-reconcile", "reconcile", False),
        ("--no-reconcile --reconcile", "reconcile", True),
        ("--no-reconcile=false", "reconcile", True),
        ("--drop-invalid --drop-invalid=false", "drop_invalid", False),
        ("--log_output_level=debug --log-level error", "log_level", "error"),
    ],
)
def test_the_last_of_a_repeated_flag_counts(words: str, field: str, expected: object) -> None:
    assert getattr(read(*words.split()), field) == expected


def test_an_invalid_value_that_is_overridden_by_a_later_flag_is_ignored() -> None:
    assert read("-p", "none", "-p", "2").outbound_port == 2


# What is no flag.


def test_an_unknown_flag_is_an_error_with_a_suggestion() -> None:
    [line] = complaints("--envoy-prot=15001")
    assert "--envoy-prot" in line
    assert "did you mean --envoy-port?" in line


def test_an_unknown_flag_that_resembles_none_points_to_the_list() -> None:
    [line] = complaints("--zzzzzzzzzzzz")
    assert "--zzzzzzzzzzzz" in line
    assert "--help" in line


@pytest.mark.parametrize("word", ["8080", "*", "", "-", "--", "istio-iptable"])
def test_a_word_that_belongs_to_no_flag_is_refused(word: str) -> None:
    [line] = complaints("-p", "15001", word, "-n")
    assert repr(word) in line


def test_parsing_continues_after_an_error() -> None:
    line = split(["stray", "--no-such-flag", "-p", "7", "-x"])
    assert line.given["outbound_port"].text == "7"
    assert [mistake.source for mistake in line.mistakes] == ["command line", "command line", "-x"]


def test_a_missing_value_is_an_error() -> None:
    [line] = complaints("-n", "--istio-service-cidr")
    assert line.startswith("--istio-service-cidr: ")
    assert "value" in line


@pytest.mark.parametrize("word", ["-n", "--dry-run", "-b*", "-b=8080", "--ipv6=false", "--vklog=1"])
def test_a_flag_is_recognised_alone_or_with_its_value(word: str) -> None:
    assert is_flag(word)


@pytest.mark.parametrize("word", ["", "-", "--", "8080", "*", "-5", "10.0.0.0/8", "--no-such-flag"])
def test_other_words_are_not_flags(word: str) -> None:
    assert not is_flag(word)


def test_messages_show_a_flag_as_typed() -> None:
    assert complaints("-p", "x")[0].startswith("-p: ")
    assert complaints("--envoy-port=x")[0].startswith("--envoy-port: ")
    assert complaints(ENVOY_PORT="x")[0].startswith("ENVOY_PORT: ")


# Options that only one command has.

FORMAT = Flag("format", "-F --format", "FORMAT_OF_IT", "tree", "FORMAT", "A format.")


@pytest.mark.parametrize("words", [["--format", "dot"], ["--format=dot"], ["-F", "dot"], ["-Fdot"]])
def test_a_command_s_own_options_are_split_like_flags(words: list[str]) -> None:
    line = split([*words, "-p", "7"], [FORMAT])
    assert line.mistakes == ()
    assert {name: value.text for name, value in line.given.items()} == {
        "format": "dot",
        "outbound_port": "7",
    }
    assert split(words).mistakes


def test_a_misspelt_option_of_a_command_gets_a_suggestion_too() -> None:
    [mistake] = split(["--fromat", "dot"], [FORMAT]).mistakes
    assert mistake.hint == "did you mean --format?"
    assert is_flag("--format", [FORMAT]) and not is_flag("--format")
