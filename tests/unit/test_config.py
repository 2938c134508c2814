"""From flags, variables and files to one checked value."""

import shlex
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from proxy_init.config.config import EVERYTHING, Config, Mode, settle
from proxy_init.errors import BadCall
from proxy_init.frozen import replace
from proxy_init.rules.model import Family

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
        ("10.1.2.3/8,fd00::1", (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::1/128"))),
    ),
    (
        "--istio-service-exclude-cidr",
        "ISTIO_SERVICE_EXCLUDE_CIDR",
        "outbound_excluded_networks",
        (),
        ("10.1.2.3", (IPv4Network("10.1.2.3/32"),)),
        ("fd00::/8,10.0.0.0/8", (IPv6Network("fd00::/8"), IPv4Network("10.0.0.0/8"))),
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
def test_a_flag_beats_its_variable_which_beats_the_default(
    flag: str, variable: str, field: str, default: object, one: Value, other: Value
) -> None:
    assert getattr(read(), field) == default
    for text, expected in (one, other):
        assert getattr(read(f"{flag}={text}"), field) == expected
        assert getattr(read(**{variable: text}), field) == expected
    assert getattr(read(f"{flag}={one[0]}", **{variable: other[0]}), field) == one[1]
    assert getattr(read(f"{flag}={other[0]}", **{variable: one[0]}), field) == other[1]


@each_field
def test_an_empty_text_means_not_given(
    flag: str, variable: str, field: str, default: object, one: Value, other: Value
) -> None:
    text, expected = one
    for empty in ("", " "):
        assert getattr(read(f"{flag}={empty}"), field) == default
        assert getattr(read(**{variable: empty}), field) == default
        assert getattr(read(f"{flag}={empty}", **{variable: text}), field) == expected
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
def test_of_two_variables_the_first_counts(first: str, second: str, field: str) -> None:
    assert getattr(read(**{first: "true", second: "false"}), field) is True
    assert getattr(read(**{first: "false", second: "true"}), field) is False


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
        "outbound_networks": EVERYTHING,
        "inbound_ports": (8080, 9090),
    }


def test_the_arguments_of_today_s_injector() -> None:
    assert without_defaults(read(*INJECTORS["today"])) == {
        "inbound_port": 15006,
        "outbound_networks": EVERYTHING,
        "inbound_ports": EVERYTHING,
        "inbound_excluded_ports": (15090, 15021, 15020),
    }


@pytest.mark.parametrize("injector", INJECTORS)
def test_the_usual_arguments_give_no_warning(injector: str) -> None:
    config = settle(read(*INJECTORS[injector]), [ip_address("10.0.0.7")])
    assert config.warnings == ()
    assert config.notes == ()


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
            ip_network,
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
    ("cidrs", "captures"),
    [
        ("", False),
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
    assert config.loopback(Family.V4).network == ip_network(network)
    assert config.loopback(Family.V6).network == ip_network("::1/128")


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


def test_interfaces_do_not_stand_in_files_for_the_kernel_takes_such_a_name() -> None:
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
    assert read_on(ALICE, "-u", "alice").proxy_gids == (1000,)
    assert read("-g", "7").proxy_uids == (1337,)


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
        "nameserver 10.96.0.10\nnameserver\tfd00::a \nnameserver fe80::1%eth0\nnameserver\n"
        "nameserver example.com\noptions ndots:5\n"
    )
    machine = FakeMachine(files={"/etc/resolv.conf": text})
    servers = read_on(machine, "--redirect-dns").dns_servers
    assert list(map(str, servers)) == ["10.96.0.10/32", "fd00::a/128", "fe80::1/128"]


def test_without_resolv_conf_there_are_no_dns_servers() -> None:
    assert read("--redirect-dns").dns_servers == ()


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
    found = list(map(ip_address, addresses.split()))
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
    config = settle(read("-d", "22"), [ip_address("10.0.0.7"), ip_address("fd00::7")])
    assert len(config.warnings) == 2


# Warnings.

WARNINGS = [
    (["-b", "8080", "-d", "22"], ["-d", "-b '*'"]),
    (["-d", "22"], ["-d"]),
    (["-i", "*", "-q", "443"], ["-q", "-i '*'"]),
    (["-b", "15001"], ["-b", "15001", "proxy"]),
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
def test_what_is_hardly_meant_is_warned_about(argv: list[str], words: list[str]) -> None:
    [warning] = read(*argv).warnings
    assert "\n" not in warning
    assert all(word in warning for word in words), warning
    [line] = complaints(*argv, "--strict")
    assert warning in line


def test_a_warning_names_the_variable_that_it_is_about() -> None:
    [warning] = read(ISTIO_SERVICE_EXCLUDE_CIDR="0.0.0.0/0").warnings
    assert "ISTIO_SERVICE_EXCLUDE_CIDR" in warning


@pytest.mark.parametrize("groups", ["1337", "5,6"])
def test_groups_that_are_all_the_proxy_s_are_warned_about(groups: str) -> None:
    gids = "1337,5,6"
    [warning] = read("-g", gids, ISTIO_OUTBOUND_OWNER_GROUPS=groups).warnings
    assert "ISTIO_OUTBOUND_OWNER_GROUPS" in warning
    assert read("-g", gids, ISTIO_OUTBOUND_OWNER_GROUPS=f"{groups},7").warnings == ()


def test_root_exempt_by_a_default_is_warned_about() -> None:
    [warning] = read_on(ALICE, ENVOY_USER="root").warnings
    assert "uid 0" in warning
    assert read_on(ALICE, "-u", "0").warnings == ()
    assert read_on(ALICE, PROXY_UID="root").warnings == ()


@pytest.mark.parametrize(
    "argv",
    [
        ["-b", "*", "-d", "22,15090"],
        ["-i", "10.0.0.0/8", "-q", "443"],
        ["-i", "10.0.0.0/8", "-x", "10.1.0.0/16"],  # a hole in what is captured
        ["-x", "10.0.0.0/8,11.0.0.0/8,fd00::/8,fe00::/8"],
        ["-x", "10.0.0.0/9,10.128.0.0/9"],
        ["-x", "0.0.0.1,::1"],  # equal as numbers, but of two families
        ["-i", "0.0.0.0/0"],
    ],
    ids=" ".join,
)
def test_what_makes_sense_is_not_warned_about(argv: list[str]) -> None:
    assert read(*argv).warnings == ()


def test_all_warnings_of_a_call_are_given_together() -> None:
    argv = ["-b", "8080,15001", "-d", "22", "-x", "10.0.0.0/8,10.0.0.0/8"]
    assert len(read(*argv).warnings) == 3
    assert len(complaints(*argv, "--strict")) == 3
    assert len(complaints(*argv, PROXY_INIT_STRICT="1")) == 3


def test_strict_refuses_nothing_that_is_meant() -> None:
    assert read(*INJECTORS["today"], "--strict").strict
