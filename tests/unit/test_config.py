"""From flags, variables and files to one checked value."""

import shlex

import pytest

from proxy_init.config.config import EVERYTHING, Config, Mode, settle
from proxy_init.errors import BadCall
from proxy_init.frozen import replace
from proxy_init.rules.model import Family
from proxy_init.rules.networks import read_address, read_network

from .fakes import FakeMachine, complaints, read, read_on

# Flag, variable, the field of the Config, its default, and two values: as text, and as read.
FIELDS = [
    ("--envoy-port", "ENVOY_PORT", "outbound_port", 15001, ("1", 1), ("65535", 65535)),
    ("--inbound-capture-port", "INBOUND_CAPTURE_PORT", "inbound_port", 15001, ("6", 6), ("7", 7)),
    ("--inbound-tunnel-port", "INBOUND_TUNNEL_PORT", "tunnel_port", 15008, ("6", 6), ("7", 7)),
    (
        "--proxy-uid",
        "PROXY_UID",
        "proxy_uids",
        (1337,),
        ("0", (0,)),
        ("5,4294967294", (5, 2**32 - 2)),
    ),
    ("--proxy-gid", "PROXY_GID", "proxy_gids", (1337,), ("0", (0,)), ("7,5", (7, 5))),
    (
        "--istio-inbound-interception-mode",
        "ISTIO_INBOUND_INTERCEPTION_MODE",
        "mode",
        Mode.REDIRECT,
        ("NONE", Mode.NONE),
        ("TPROXY", Mode.TPROXY),
    ),
    (
        "--istio-inbound-ports",
        "ISTIO_INBOUND_PORTS",
        "inbound_ports",
        (),
        ("*", EVERYTHING),
        ("8080,80", (8080, 80)),
    ),
    (
        "--istio-local-exclude-ports",
        "ISTIO_LOCAL_EXCLUDE_PORTS",
        "inbound_excluded_ports",
        (),
        ("22", (22,)),
        ("22,23", (22, 23)),
    ),
    (
        "--istio-service-cidr",
        "ISTIO_SERVICE_CIDR",
        "outbound_networks",
        (),
        ("*", EVERYTHING),
        ("10.1.2.3/8,fd00::1", (read_network("10.0.0.0/8"), read_network("fd00::1/128"))),
    ),
    (
        "--istio-service-exclude-cidr",
        "ISTIO_SERVICE_EXCLUDE_CIDR",
        "outbound_excluded_networks",
        (),
        ("10.1.2.3", (read_network("10.1.2.3/32"),)),
        ("fd00::/8,10.0.0.0/8", (read_network("fd00::/8"), read_network("10.0.0.0/8"))),
    ),
    (
        "--istio-outbound-ports",
        "ISTIO_OUTBOUND_PORTS",
        "outbound_ports",
        (),
        ("1", (1,)),
        ("2", (2,)),
    ),
    (
        "--istio-local-outbound-ports-exclude",
        "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        "outbound_excluded_ports",
        (),
        ("53", (53,)),
        ("54", (54,)),
    ),
    (
        "--istio-exclude-interfaces",
        "ISTIO_EXCLUDE_INTERFACES",
        "excluded_interfaces",
        (),
        ("eth1", ("eth1",)),
        ("net+,eth2", ("net+", "eth2")),
    ),
    (
        "--kube-virt-interfaces",
        "KUBE_VIRT_INTERFACES",
        "virtual_interfaces",
        (),
        ("k6t-eth0", ("k6t-eth0",)),
        ("a,fifteen-bytes_+", ("a", "fifteen-bytes_+")),
    ),
    (
        "--istio-inbound-tproxy-mark",
        "ISTIO_INBOUND_TPROXY_MARK",
        "tproxy_mark",
        1337,
        ("0x1F", 31),
        ("4294967295", 2**32 - 1),
    ),
    (
        "--istio-inbound-tproxy-route-table",
        "ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
        "tproxy_route_table",
        133,
        ("252", 252),
        ("256", 256),
    ),
    ("--dry-run", "DRY_RUN", "dry_run", False, ("true", True), ("false", False)),
    ("--ipv6", "ENABLE_INBOUND_IPV6", "ipv6", None, ("true", True), ("false", False)),
    ("--dual-stack", "DUAL_STACK", "dual_stack", False, ("1", True), ("0", False)),
    ("--dual-stack", "ISTIO_DUAL_STACK", "dual_stack", False, ("T", True), ("F", False)),
    ("--redirect-dns", "REDIRECT_DNS", "redirect_dns", False, ("TRUE", True), ("f", False)),
    ("--redirect-dns", "ISTIO_META_DNS_CAPTURE", "redirect_dns", False, ("t", True), ("0", False)),
    ("--capture-all-dns", "CAPTURE_ALL_DNS", "capture_all_dns", False, ("1", True), ("0", False)),
    ("--drop-invalid", "DROP_INVALID", "drop_invalid", False, ("True", True), ("False", False)),
    ("--drop-invalid", "INVALID_DROP", "drop_invalid", False, ("tRuE", True), ("fAlSe", False)),
    (
        "--network-namespace",
        "NETWORK_NAMESPACE",
        "network_namespace",
        None,
        ("/proc/1/ns/net", "/proc/1/ns/net"),
        ("pod", "pod"),
    ),
    ("--reconcile", "RECONCILE", "reconcile", True, ("false", False), ("true", True)),
    ("--force-apply", "FORCE_APPLY", "force_apply", False, ("1", True), ("0", False)),
    ("--cleanup-only", "CLEANUP_ONLY", "cleanup_only", False, ("1", True), ("0", False)),
    ("--skip-rule-apply", "SKIP_RULE_APPLY", "skip_rule_apply", False, ("1", True), ("0", False)),
    ("--run-validation", "RUN_VALIDATION", "run_validation", False, ("1", True), ("0", False)),
    ("--iptables-probe-port", "IPTABLES_PROBE_PORT", "probe_port", 15002, ("6", 6), ("7", 7)),
    ("--probe-timeout", "PROBE_TIMEOUT", "probe_timeout", 5000, ("500ms", 500), ("1m30s", 90000)),
    (
        "--ruleset",
        "PROXY_INIT_RULESET",
        "ruleset",
        "current",
        ("1.0", "1.0"),
        ("current", "current"),
    ),
    ("--comments", "PROXY_INIT_COMMENTS", "comments", False, ("1", True), ("0", False)),
    ("--log_output_level", "LOG_LEVEL", "log_level", "info", ("warn", "warn"), ("none", "none")),
    ("--log-level", "LOG_LEVEL", "log_level", "info", ("fatal", "fatal"), ("debug", "debug")),
    ("--log_as_json", "LOG_AS_JSON", "log_as_json", False, ("1", True), ("0", False)),
    ("--backend", "PROXY_INIT_BACKEND", "backend", "auto", ("legacy", "legacy"), ("nft", "nft")),
    (
        "--cidr-tree",
        "PROXY_INIT_CIDR_TREE",
        "cidr_tree",
        "auto",
        ("never", "never"),
        ("always", "always"),
    ),
    ("--wait", "PROXY_INIT_WAIT", "wait", 30, ("0", 0), ("600", 600)),
    ("--strict", "PROXY_INIT_STRICT", "strict", False, ("1", True), ("0", False)),
]
Value = tuple[str, object]

each_field = pytest.mark.parametrize(
    ("flag", "variable", "field", "default", "one", "other"),
    FIELDS,
    ids=[f"{row[0]}-{row[1]}" for row in FIELDS],
)

ALICE = FakeMachine(
    users={"alice": 1000, "istio-proxy": 1338, "envoy": 101, "root": 0},
    groups={"alice": 1001, "mesh": 2000},
)

# Flags, variables, precedence.


@each_field
def test_a_flag_overrides_its_variable_and_a_variable_the_default(
    flag: str, variable: str, field: str, default: object, one: Value, other: Value
) -> None:
    assert getattr(read(), field) == default
    for text, expected in (one, other):
        assert getattr(read(f"{flag}={text}"), field) == expected
        assert getattr(read(**{variable: text}), field) == expected
    assert getattr(read(f"{flag}={one[0]}", **{variable: other[0]}), field) == one[1]
    assert getattr(read(f"{flag}={other[0]}", **{variable: one[0]}), field) == other[1]


@each_field
def test_an_empty_flag_means_the_default_and_an_empty_variable_means_nothing(
    flag: str, variable: str, field: str, default: object, one: Value, other: Value
) -> None:
    text, expected = one
    for empty in ("", " "):
        assert getattr(read(f"{flag}={empty}"), field) == default
        assert getattr(read(f"{flag}={empty}", **{variable: text}), field) == default
        assert getattr(read(**{variable: empty}), field) == default
        assert getattr(read(f"{flag}={text}", **{variable: empty}), field) == expected


@each_field
def test_blanks_around_a_value_do_not_matter(
    flag: str, variable: str, field: str, default: object, one: Value, other: Value
) -> None:
    text, expected = one
    assert getattr(read(f"{flag}= {text}\n"), field) == expected
    assert getattr(read(**{variable: f"\t{text} "}), field) == expected


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ("DUAL_STACK", "ISTIO_DUAL_STACK", "dual_stack"),
        ("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE", "redirect_dns"),
        ("DROP_INVALID", "INVALID_DROP", "drop_invalid"),
    ],
)
def test_of_two_variables_the_second_counts(first: str, second: str, field: str) -> None:
    for one, other in (("true", "false"), ("false", "true"), ("perhaps", "1")):
        config = read("--capture-all-dns", **{first: one, second: other})
        assert getattr(config, field) is (other in ("true", "1"))
        [warning] = config.warnings
        assert f"{second} is '{other}' and is used" in warning
        assert f"{first} is '{one}' and is ignored" in warning
    for one, other in (("true", "1"), ("0", "off"), ("", "true"), ("true", "")):
        config = read("--capture-all-dns", **{first: one, second: other})
        assert getattr(config, field) is ("true" in (one, other))
        assert config.warnings == ()


def test_a_flag_that_beats_two_contradicting_variables_is_no_contradiction() -> None:
    config = read("--dual-stack", DUAL_STACK="true", ISTIO_DUAL_STACK="false")
    assert config.dual_stack
    assert config.warnings == ()


# What is set for another program, or by Kubernetes.


@pytest.mark.parametrize(
    ("text", "on"),
    [
        *((word, True) for word in ("on", "ON", "yes", "Yes", "y", "enabled", "true", "T", "1")),
        *((word, False) for word in ("off", "Off", "no", "NO", "n", "disabled", "false", "F", "0")),
    ],
)
def test_a_variable_may_switch_with_any_usual_word(text: str, on: bool) -> None:
    assert read(DROP_INVALID=text).drop_invalid is on
    assert read(ENABLE_INBOUND_IPV6=text).ipv6 is on
    assert read(DRY_RUN=text).dry_run is on


@pytest.mark.parametrize("text", ["ALL", "all", "true", "yes"])
def test_all_switches_dns_capture_on_as_in_istio_1_7(text: str) -> None:
    for variable in ("ISTIO_META_DNS_CAPTURE", "REDIRECT_DNS"):
        config = read(**{variable: text})
        assert config.redirect_dns
        assert not config.capture_all_dns
    assert read(CAPTURE_ALL_DNS=text).capture_all_dns


def test_the_mode_of_a_variable_may_stand_in_any_case() -> None:
    for text in ("tproxy", "TProxy", "TPROXY"):
        assert read(ISTIO_INBOUND_INTERCEPTION_MODE=text).mode is Mode.TPROXY


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("INFO", "info"),
        ("Debug", "debug"),
        ("trace", "debug"),
        ("WARNING", "warn"),
        ("err", "error"),
        ("critical", "fatal"),
        ("off", "none"),
        ("default:WARNING,xds:trace", "warn"),
        ("xds:TRACE", "info"),
    ],
)
def test_the_log_level_of_a_variable_is_taken_as_other_programs_write_it(
    text: str, level: str
) -> None:
    config = read(LOG_LEVEL=text)
    assert config.log_level == level
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("variable", "text", "field"),
    [
        ("LOG_LEVEL", "loud", "log_level"),
        ("LOG_LEVEL", "default:9", "log_level"),
        ("LOG_AS_JSON", "pretty", "log_as_json"),
        ("IPTABLES_PROBE_PORT", "http", "probe_port"),
        ("PROBE_TIMEOUT", "5", "probe_timeout"),
        ("PROXY_INIT_WAIT", "forever", "wait"),
        ("PROXY_INIT_COMMENTS", "all", "comments"),
        ("PROXY_INIT_BACKEND", "iptables", "backend"),
        ("PROXY_INIT_CIDR_TREE", "sometimes", "cidr_tree"),
        ("PROXY_INIT_STRICT", "very", "strict"),
        ("FORCE_APPLY", "please", "force_apply"),
        ("RUN_VALIDATION", "perhaps", "run_validation"),
        ("CNI_MODE", "cilium", "output"),
        ("NATIVE_NFTABLES", "cilium", "backend"),
    ],
)
def test_a_variable_that_decides_nothing_about_capture_never_stops_a_pod(
    variable: str, text: str, field: str
) -> None:
    config = read(**{variable: text})
    assert getattr(config, field) == getattr(read(), field)
    [warning] = config.warnings
    assert warning.startswith(f"{variable}: got ")
    assert "it is ignored" in warning
    if variable != "PROXY_INIT_STRICT":
        [line] = complaints("--strict", **{variable: text})
        assert variable in line


def test_a_backend_that_a_variable_names_may_stand_in_any_case() -> None:
    assert read(PROXY_INIT_BACKEND="NFT").backend == "nft"
    assert read(FORCE_IPTABLES_BINARY="maybe").backend == "auto"


def test_a_variable_that_kubernetes_sets_for_a_service_is_not_ours() -> None:
    config = read(ENVOY_PORT="tcp://10.96.0.7:80", INBOUND_TUNNEL_PORT="udp://[fd00::1]:53")
    assert (config.outbound_port, config.tunnel_port) == (15001, 15008)
    assert [warning.split()[0] for warning in config.warnings] == [
        "ENVOY_PORT",
        "INBOUND_TUNNEL_PORT",
    ]
    assert read("-p", "5", ENVOY_PORT="tcp://10.96.0.7:80").warnings == ()
    [line] = complaints(ISTIO_INBOUND_PORTS="tcp://10.96.0.7:80")
    assert "ISTIO_INBOUND_PORTS" in line


def test_a_variable_that_a_flag_beats_is_not_even_read() -> None:
    assert read("-p", "5", ENVOY_PORT="five").outbound_port == 5


def test_the_output_format_has_no_variable() -> None:
    assert read().output == "text"
    assert read("-O", "json").output == read("--output=json").output == "json"


def test_both_families_are_printed_unless_one_is_asked_for() -> None:
    assert read("-n").printed_families == (Family.V4, Family.V6)
    assert read("-n", "-4").printed_families == (Family.V4,)
    assert read("-n", "--ipv6-only").printed_families == (Family.V6,)
    assert read("-n", "-4=false", "-6=false").printed_families == (Family.V4, Family.V6)


def test_switched_off_a_family_flag_does_not_need_dry_run() -> None:
    assert read("-4=false").printed_families == (Family.V4, Family.V6)


def test_no_ipv6_is_the_opposite_of_ipv6() -> None:
    assert read("--no-ipv6", ENABLE_INBOUND_IPV6="true").ipv6 is False
    assert read("--ipv6", ENABLE_INBOUND_IPV6="false").ipv6 is True


def test_the_lock_file_is_where_iptables_looks_for_it() -> None:
    assert read().lock_file == "/run/xtables.lock"
    assert read(XTABLES_LOCKFILE="").lock_file == "/run/xtables.lock"
    assert read(XTABLES_LOCKFILE="/tmp/lock").lock_file == "/tmp/lock"


# What real injectors pass.

INJECTORS = {
    "1.0": shlex.split(
        "-p 15001 -u 1337 -m REDIRECT -i '*' -x '' -b '8080, 9090, ' -d ''",
    ),
    "today": shlex.split(
        "-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020 "
        "--log_output_level=default:info"
    ),
}


def without_defaults(config: Config) -> dict[str, object]:
    """The fields of a Config in which it differs from a call without arguments."""
    default = read()
    return {
        name: getattr(config, name)
        for name in Config.__match_args__
        if getattr(config, name) != getattr(default, name)
    }


def test_the_arguments_of_a_1_0_injector() -> None:
    assert without_defaults(read(*INJECTORS["1.0"])) == {
        "about_rules": True,
        "outbound_networks": EVERYTHING,
        "inbound_ports": (8080, 9090),
        "warnings": read(*INJECTORS["1.0"]).warnings,
    }


def test_the_arguments_of_today_s_injector() -> None:
    assert without_defaults(read(*INJECTORS["today"])) == {
        "about_rules": True,
        "inbound_port": 15006,
        "outbound_networks": EVERYTHING,
        "inbound_ports": EVERYTHING,
        "inbound_excluded_ports": (15090, 15021, 15020),
    }


@pytest.mark.parametrize("injector", INJECTORS)
def test_the_usual_arguments_give_no_warning(injector: str) -> None:
    arguments = [*INJECTORS[injector], *(["--ruleset=1.0"] if injector == "1.0" else [])]
    config = settle(read(*arguments), [read_address("10.0.0.7")])
    assert config.warnings == ()
    assert config.notes == ()


def test_a_missing_inbound_port_gives_a_warning_about_the_default_of_istio_1_3() -> None:
    [warning] = read(*INJECTORS["1.0"]).warnings
    assert warning.startswith("-b without -z: ")
    assert "15001" in warning
    assert "15006" in warning
    assert read("-b", "", "-i", "*").warnings == ()
    assert read("-b", "*", INBOUND_CAPTURE_PORT="15006").warnings == ()


# Port lists, as Istio's annotations let them pass.

each_port_list = pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("-b", "inbound_ports"),
        ("-d", "inbound_excluded_ports"),
        ("-q", "outbound_ports"),
        ("-o", "outbound_excluded_ports"),
    ],
)


@each_port_list
def test_port_0_and_leading_zeros_are_taken_with_a_warning(flag: str, field: str) -> None:
    config = read(flag, "0,0443,080,0,65535", "-z", "15006")
    assert getattr(config, field) == (0, 443, 80, 0, 65535)
    warnings = [warning for warning in config.warnings if "-b '*'" not in warning]
    assert warnings == [
        f"{flag}: port 0 matches no packet",
        f"{flag}: 0443 is read as port 443",
        f"{flag}: 080 is read as port 80",
    ]


def test_warnings_about_a_long_list_are_cut() -> None:
    warnings = read("-o", ",".join(f"0{port}" for port in range(1, 1001))).warnings
    assert len(warnings) == 11
    assert "990 more" in warnings[-1]


@pytest.mark.parametrize(
    ("flag", "field"), [("-b", "inbound_ports"), ("-d", "inbound_excluded_ports")]
)
@pytest.mark.parametrize("text", ["8080,9090", "8080, 9090, ", ",,8080 ,\t9090", " 8080,9090\n"])
def test_blanks_and_empty_items_in_lists_are_ignored(flag: str, field: str, text: str) -> None:
    assert getattr(read(flag, text), field) == (8080, 9090)


@pytest.mark.parametrize("text", ["*", " * ", "*,", ",*, "])
def test_everything_may_have_blanks_and_commas_around_it_too(text: str) -> None:
    config = read("-b", text, "-i", text)
    assert config.inbound_ports is EVERYTHING
    assert config.outbound_networks is EVERYTHING


def test_a_list_of_nothing_is_the_default() -> None:
    config = read("-b", ",", "-i", " , ", "-u", ",", "-c", ", ,")
    assert (config.inbound_ports, config.outbound_networks) == ((), ())
    assert config.proxy_uids == (1337,)
    assert config.excluded_interfaces == ()


def test_the_inbound_port_is_the_outbound_one_where_it_is_not_given() -> None:
    assert read("-p", "5").inbound_port == 5
    assert read("-p", "5", "-z", "6").inbound_port == 6
    assert read(ENVOY_PORT="5").inbound_port == 5


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("debug", "debug"),
        ("default:warn", "warn"),
        ("all:error", "error"),
        ("default:info,xds:debug", "info"),
        ("xds:debug, default:error", "error"),
        ("xds:debug", "info"),
        ("warn,default:none", "none"),
    ],
)
def test_the_log_level_is_that_of_our_scopes(text: str, level: str) -> None:
    assert read("--log_output_level", text).log_level == level


# CIDRs.


def test_host_bits_are_masked_off_and_a_bare_address_stands_alone() -> None:
    config = read("-x", "10.255.1.1/9,192.0.2.9,2001:db8::5/32,::1,::/0,0.0.0.0/0")
    assert config.outbound_excluded_networks == tuple(
        map(
            read_network,
            ["10.128.0.0/9", "192.0.2.9/32", "2001:db8::/32", "::1/128", "::/0", "0.0.0.0/0"],
        )
    )


def test_each_family_gets_its_own_networks_in_the_order_given() -> None:
    config = read("-i", "10.0.0.0/8,fd00::/8,192.0.2.1,::2")
    assert config.outbound_networks is not EVERYTHING
    networks = config.outbound_networks
    assert list(map(str, config.networks(networks, Family.V4))) == ["10.0.0.0/8", "192.0.2.1/32"]
    assert list(map(str, config.networks(networks, Family.V6))) == ["fd00::/8", "::2/128"]


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::FFFF:a01:203/128", "10.1.2.3/32"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:10.1.2.3/95", "::fffe:0:0/95"),
        ("::10.1.2.3", "::10.1.2.3/128"),
    ],
)
def test_an_ipv4_mapped_network_counts_as_the_ipv4_network(text: str, network: str) -> None:
    for flag, field in (("-x", "outbound_excluded_networks"), ("-i", "outbound_networks")):
        assert getattr(read(flag, text), field) == (read_network(network),)


def test_the_loopback_network_may_be_an_ipv4_mapped_one() -> None:
    config = read(ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR="::ffff:127.0.0.0/104")
    assert config.ipv4_loopback == read_network("127.0.0.0/8")


@pytest.mark.parametrize(
    ("cidrs", "captures"),
    [
        ("", False),
        ("::ffff:127.0.0.1/128", True),
        ("::ffff:10.0.0.1", False),
        ("*", False),
        ("10.0.0.0/8", False),
        ("127.0.0.1/32", True),
        ("10.0.0.0/8,127.1.2.3", True),
        ("::1", True),
        ("127.0.0.1/0", True),  # the address as written, before masking
        ("0.0.0.0/0", False),
        ("126.0.0.0/7", False),
    ],
)
def test_calls_to_oneself_are_captured_if_a_loopback_address_is_named(
    cidrs: str, captures: bool
) -> None:
    assert read("-i", cidrs).captures_loopback is captures


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("", "127.0.0.1/32"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("127.0.0.0/8", "127.0.0.0/8"),
        ("127.1.2.3/16", "127.1.0.0/16"),
        (" 127.0.0.1/32 ", "127.0.0.1/32"),
    ],
)
def test_the_ipv4_loopback_network_comes_from_a_variable(text: str, network: str) -> None:
    config = read(ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=text)
    assert config.loopback(Family.V4).network == read_network(network)
    assert config.loopback(Family.V6).network == read_network("::1/128")


# Files.


@pytest.mark.parametrize(
    ("flag", "variable", "field"),
    [
        ("-b", "ISTIO_INBOUND_PORTS", "inbound_ports"),
        ("-d", "ISTIO_LOCAL_EXCLUDE_PORTS", "inbound_excluded_ports"),
        ("-o", "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "outbound_excluded_ports"),
        ("-q", "ISTIO_OUTBOUND_PORTS", "outbound_ports"),
    ],
)
def test_a_list_of_ports_may_stand_in_a_file(flag: str, variable: str, field: str) -> None:
    text = "# ours\n80,443 , 8080\r\n\n  9090 # the last\n#7\n"
    machine = FakeMachine(files={"/etc/mesh/ports": text})
    for config in (
        read_on(machine, flag, "@/etc/mesh/ports"),
        read_on(machine, **{variable: "@/etc/mesh/ports"}),
    ):
        assert getattr(config, field) == (80, 443, 8080, 9090)


@pytest.mark.parametrize(
    ("flag", "field"), [("-i", "outbound_networks"), ("-x", "outbound_excluded_networks")]
)
def test_a_list_of_networks_may_stand_in_a_file(flag: str, field: str) -> None:
    machine = FakeMachine(files={"some file": "10.0.0.0/8\nfd00::/8, 192.0.2.1#one"})
    networks = getattr(read_on(machine, flag, "@some file"), field)
    assert list(map(str, networks)) == ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]


def test_a_file_may_hold_more_than_an_argument() -> None:
    lines = [f"10.{n // 256}.{n % 256}.0/24" for n in range(10_000)]
    machine = FakeMachine(files={"/long": "\n".join(lines)})
    config = read_on(machine, "-x", "@/long")
    assert list(map(str, config.outbound_excluded_networks)) == lines


def test_a_file_with_comments_only_names_nothing() -> None:
    machine = FakeMachine(files={"/empty": "# nothing yet\n"})
    assert read_on(machine, "-b", "@/empty").inbound_ports == ()


@pytest.mark.parametrize("flag", ["-u", "-g"])
def test_users_and_groups_do_not_stand_in_files(flag: str) -> None:
    with pytest.raises(BadCall, match="@f"):
        read_on(FakeMachine(files={"f": "1"}), flag, "@f")


def test_interfaces_are_not_read_from_files_since_the_kernel_accepts_such_a_name() -> None:
    config = read_on(FakeMachine(files={"f": "eth0"}), "-c", "@f", "-k", "@f")
    assert config.excluded_interfaces == config.virtual_interfaces == ("@f",)


# Users and groups.


def test_users_and_groups_may_be_named() -> None:
    config = read_on(ALICE, "-u", "alice,7,root", "-g", "alice, mesh,8")
    assert config.proxy_uids == (1000, 7, 0)
    assert config.proxy_gids == (1001, 2000, 8)


def test_a_number_is_never_looked_up_as_a_name() -> None:
    machine = FakeMachine(users={"12": 99})
    assert read_on(machine, "-u", "12").proxy_uids == (12,)


def test_the_proxy_s_groups_are_its_users_where_they_are_not_given() -> None:
    assert read("-u", "7,8").proxy_gids == (7, 8)
    assert read("-g", "7").proxy_uids == (1337,)


def test_the_group_of_a_user_s_name_is_the_proxy_s_too() -> None:
    config = read_on(ALICE, "-u", "alice,7")
    assert (config.proxy_uids, config.proxy_gids) == ((1000, 7), (1001, 7))
    assert config.warnings == ()
    assert read_on(ALICE, PROXY_UID="alice").proxy_gids == (1001,)
    assert read_on(ALICE, "-u", "alice", "--ruleset=1.0").proxy_gids == (1001,)
    assert read_on(ALICE, "-u", "alice", "-g", "5").proxy_gids == (5,)


def test_a_user_without_a_group_of_that_name_exempts_the_gid_of_its_uid_with_a_warning() -> None:
    config = read_on(ALICE, "-u", "envoy, alice")
    assert config.proxy_gids == (101, 1001)
    [warning] = config.warnings
    assert warning.startswith("-u: there is no group envoy")
    assert "101" in warning
    assert read_on(ALICE, "-u", "envoy", "-g", "101").warnings == ()


def test_the_proxy_s_user_is_that_of_envoy_user_else_1337() -> None:
    assert read().proxy_uids == (1337,)
    assert read_on(ALICE).proxy_uids == read_on(ALICE).proxy_gids == (1338,)
    assert read_on(ALICE, ENVOY_USER="").proxy_uids == (1338,)
    assert read_on(ALICE, ENVOY_USER="envoy").proxy_uids == (101,)
    assert read_on(ALICE, ENVOY_USER="nobody-here").proxy_uids == (1337,)
    assert read_on(ALICE, "-u", "5", ENVOY_USER="envoy").proxy_uids == (5,)


# Owner groups.

INCLUDED, EXCLUDED = "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"


@pytest.mark.parametrize("text", ["", " ", ",", "*", " *, "])
def test_without_a_list_processes_of_all_groups_are_captured(text: str) -> None:
    config = read(ISTIO_OUTBOUND_OWNER_GROUPS=text)
    assert config.owner_groups is EVERYTHING
    assert config.owner_groups_excluded == ()


def test_owner_groups_are_read_by_number_and_name() -> None:
    assert read_on(ALICE, **{INCLUDED: "mesh, 202"}).owner_groups == (2000, 202)
    assert read_on(ALICE, **{EXCLUDED: "202,mesh,"}).owner_groups_excluded == (202, 2000)


def test_a_flag_for_owner_groups_takes_precedence_over_its_variable() -> None:
    config = read("--istio-outbound-owner-groups", "7", **{INCLUDED: "6"})
    assert (config.owner_groups, config.warnings) == ((7,), ())


def test_an_exclude_list_goes_with_all_groups_only() -> None:
    assert read(**{INCLUDED: "*", EXCLUDED: "5"}).owner_groups_excluded == (5,)
    [line] = complaints(**{INCLUDED: "6", EXCLUDED: "5"})
    assert INCLUDED in line
    assert EXCLUDED in line


def test_64_groups_are_the_most_that_may_be_included() -> None:
    groups = list(map(str, range(1, 66)))
    assert read(**{INCLUDED: ",".join(groups[:64])}).owner_groups == tuple(range(1, 65))
    [line] = complaints(**{INCLUDED: ",".join(groups)})
    assert line.startswith(f"{INCLUDED}: ")
    assert "64" in line
    assert "65" in line


def test_any_number_of_groups_may_be_excluded() -> None:
    groups = tuple(range(1, 101))
    assert read(**{EXCLUDED: ",".join(map(str, groups))}).owner_groups_excluded == groups


# DNS servers.


def test_dns_servers_are_those_of_resolv_conf() -> None:
    text = (
        "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch cluster.local\n"
        "nameserver 10.96.0.10\r\nnameserver\tfd00::a \nnameserver\noptions ndots:5\n"
        "nameserver ::ffff:10.96.0.11 # an IPv4 address\n"
    )
    machine = FakeMachine(files={"/etc/resolv.conf": text})
    config = read_on(machine, "--redirect-dns")
    assert list(map(str, config.dns_servers)) == ["10.96.0.10/32", "fd00::a/128", "10.96.0.11/32"]
    assert config.warnings == ()


@pytest.mark.parametrize(
    "word",
    ["10.0.0.1/24", "10.0.0.1%d0", "fe80::1%eth0", "example.com", "10.0.0.1#53", "010.0.0.1"],
)
def test_a_dns_server_that_is_no_plain_address_is_skipped_with_a_warning(word: str) -> None:
    text = f"nameserver {word}\nnameserver 10.96.0.10\n"
    config = read_on(FakeMachine(files={"/etc/resolv.conf": text}), "--redirect-dns")
    assert list(map(str, config.dns_servers)) == ["10.96.0.10/32"]
    [warning] = config.warnings
    assert repr(word) in warning


@pytest.mark.parametrize("end", ["\v", "\f", "\x1c", "\x85", "\u2028", "\r"])
def test_a_line_of_resolv_conf_ends_with_a_line_feed_only(end: str) -> None:
    text = f"search a{end}nameserver 192.0.2.1\nnameserver 10.96.0.10{end}\n"
    config = read_on(FakeMachine(files={"/etc/resolv.conf": text}), "--redirect-dns")
    assert list(map(str, config.dns_servers)) == ["10.96.0.10/32"]


def test_without_resolv_conf_there_are_no_dns_servers() -> None:
    assert read("--redirect-dns").dns_servers == ()


def test_dns_servers_are_taken_from_a_flag_instead_of_resolv_conf() -> None:
    machine = FakeMachine(files={"/etc/resolv.conf": "nameserver 10.96.0.10"})
    config = read_on(machine, "--redirect-dns", "--dns-servers", "192.0.2.1, fd00::a")
    assert config.dns_servers == (read_network("192.0.2.1/32"), read_network("fd00::a/128"))
    [line] = complaints("--redirect-dns", "--dns-servers", "192.0.2.0/24")
    assert line.startswith("--dns-servers: ")


def test_resolv_conf_is_read_for_dns_capture_only() -> None:
    machine = FakeMachine(files={"/etc/resolv.conf": "nameserver 10.96.0.10"})
    assert read_on(machine).dns_servers == ()


# IPv6, by the addresses of the namespace.


@pytest.mark.parametrize(
    ("flags", "addresses", "ipv6", "warned"),
    [
        ("", "", False, False),
        ("", "10.0.0.7", False, False),
        ("", "fd00::7", True, False),
        ("", "fd00::7 10.0.0.7", True, False),
        ("", "10.0.0.7 fd00::7", False, True),
        ("--dual-stack", "10.0.0.7 fd00::7", True, False),
        ("--dual-stack", "10.0.0.7", False, False),
        ("--dual-stack", "", False, False),
        ("--ipv6", "", True, False),
        ("--ipv6", "10.0.0.7", True, False),
        ("--no-ipv6", "10.0.0.7", False, False),
        ("--no-ipv6", "fd00::7", False, True),
        ("--dual-stack --no-ipv6", "10.0.0.7 fd00::7", False, True),
    ],
)
def test_whether_ipv6_is_captured(flags: str, addresses: str, ipv6: bool, warned: bool) -> None:
    config = read(*flags.split())
    found = list(map(read_address, addresses.split()))
    result = settle(config, found)
    assert result.ipv6 is ipv6
    assert result.ipv6_reason
    assert any("IPv6" in warning for warning in result.warnings) is warned
    assert replace(result, ipv6=config.ipv6, ipv6_reason="", warnings=()) == config
    if warned:
        with pytest.raises(BadCall, match="IPv6"):
            settle(read(*flags.split(), "--strict"), found)
    else:
        assert settle(read(*flags.split(), "--strict"), found).ipv6 is ipv6


def test_warnings_about_the_flags_stay_beside_the_one_about_addresses() -> None:
    config = settle(read("-d", "22"), [read_address("10.0.0.7"), read_address("fd00::7")])
    assert len(config.warnings) == 2


# Warnings.

WARNINGS = [
    (["-b", "8080", "-d", "22", "-z", "15006"], ["-d", "-b '*'"]),
    (["-d", "22"], ["-d"]),
    (["-i", "*", "-q", "443"], ["-q", "-i '*'"]),
    (["-b", "*"], ["-b", "without -z", "15006"]),
    (["-b", "15001", "-z", "15006"], ["-b", "15001", "proxy"]),
    (["-b", "15006", "-z", "15006"], ["-b", "15006", "proxy"]),
    (["-b", "*", "-d", "15006", "-z", "15006"], ["-d", "15006", "proxy"]),
    (["--istio-outbound-ports", "15001"], ["--istio-outbound-ports", "15001", "proxy"]),
    (["-p", "99", "-o", "98,99"], ["-o", "99", "proxy"]),
    (["-x", "10.0.0.0/8,10.0.0.0/8"], ["-x", "10.0.0.0/8", "twice"]),
    (["-x", "10.0.0.1/8,10.0.0.2/8"], ["-x", "10.0.0.0/8", "twice"]),
    (["-x", "10.1.0.0/16,10.0.0.0/8"], ["-x", "10.1.0.0/16", "10.0.0.0/8", "inside"]),
    (["-i", "fd00::/8,10.0.0.0/8,fd12::1"], ["-i", "fd12::1/128", "fd00::/8", "inside"]),
    (["-x", "0.0.0.0/0"], ["-x", "0.0.0.0/0"]),
    (["-x", "::/0"], ["-x", "::/0"]),
]


@pytest.mark.parametrize(("argv", "words"), WARNINGS, ids=[" ".join(argv) for argv, _ in WARNINGS])
def test_valid_flags_that_are_probably_not_intended_give_a_warning(
    argv: list[str], words: list[str]
) -> None:
    [warning] = read(*argv).warnings
    assert "\n" not in warning
    assert all(word in warning for word in words), warning
    [line] = complaints(*argv, "--strict")
    assert warning in line


def test_a_warning_names_the_variable_that_it_is_about() -> None:
    [warning] = read(ISTIO_SERVICE_EXCLUDE_CIDR="0.0.0.0/0").warnings
    assert "ISTIO_SERVICE_EXCLUDE_CIDR" in warning


@pytest.mark.parametrize("groups", ["1337", "5,6"])
def test_owner_groups_of_the_proxy_only_give_a_warning(groups: str) -> None:
    gids = "1337,5,6"
    [warning] = read("-g", gids, ISTIO_OUTBOUND_OWNER_GROUPS=groups).warnings
    assert "ISTIO_OUTBOUND_OWNER_GROUPS" in warning
    assert read("-g", gids, ISTIO_OUTBOUND_OWNER_GROUPS=f"{groups},7").warnings == ()


def test_root_exempt_by_default_gives_a_warning() -> None:
    [warning] = read_on(ALICE, ENVOY_USER="root").warnings
    assert "uid 0" in warning
    assert read_on(ALICE, "-u", "0").warnings == ()
    machine = FakeMachine(users={"root": 0}, groups={"root": 0})
    assert read_on(machine, PROXY_UID="root").warnings == ()


def test_an_empty_list_of_owner_groups_means_all_with_a_warning() -> None:
    for text in ("", " , "):
        config = read(ISTIO_OUTBOUND_OWNER_GROUPS=text)
        assert config.owner_groups is EVERYTHING
        [warning] = config.warnings
        assert warning.startswith("ISTIO_OUTBOUND_OWNER_GROUPS is empty")
    assert read(ISTIO_OUTBOUND_OWNER_GROUPS="*").warnings == ()


@pytest.mark.parametrize(
    "argv",
    [
        ["-b", "*", "-d", "22,15090", "-z", "15006"],
        ["-i", "10.0.0.0/8", "-q", "443"],
        ["-i", "10.0.0.0/8", "-x", "10.1.0.0/16"],  # a hole in what is captured
        ["-x", "10.0.0.0/8,11.0.0.0/8,fd00::/8,fe00::/8"],
        ["-x", "10.0.0.0/9,10.128.0.0/9"],
        ["-x", "0.0.0.1,::1"],  # equal as numbers, but of two families
        ["-i", "0.0.0.0/0"],
    ],
    ids=" ".join,
)
def test_sensible_flags_give_no_warning(argv: list[str]) -> None:
    assert read(*argv).warnings == ()


def test_all_warnings_of_a_call_are_given_together() -> None:
    argv = ["-b", "8080,15001", "-d", "22", "-x", "10.0.0.0/8,10.0.0.0/8", "-z", "15006"]
    assert len(read(*argv).warnings) == 3
    assert len(complaints(*argv, "--strict")) == 3
    assert len(complaints(*argv, PROXY_INIT_STRICT="1")) == 3


def test_strict_accepts_calls_without_warnings() -> None:
    assert read(*INJECTORS["today"], "--strict").strict
