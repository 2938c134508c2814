"""Whatever is thrown at it, a call is understood or refused; nothing gets through unchecked."""

import netaddr
from hypothesis import example, given
from hypothesis import strategies as st

from proxy_init.config import values
from proxy_init.config.command_line import split
from proxy_init.config.config import Config, settle
from proxy_init.config.flags import FLAGS
from proxy_init.config.read import read_config
from proxy_init.errors import BadCall
from proxy_init.rules.iptables_save import ruleset_text
from proxy_init.rules.model import Family
from proxy_init.rules.networks import read_address, read_network
from proxy_init.rulesets import build

from .fakes import VARIABLES_WITHOUT_A_FLAG, FakeMachine, bounded

SPELLINGS = [word for flag in FLAGS for word in f"{flag.spellings} {flag.opposite}".split()]
VARIABLES = [
    *(name for flag in FLAGS for name in flag.variables.split()),
    *VARIABLES_WITHOUT_A_FLAG,
]

# Any text that an argument can hold; the lone surrogates stand for bytes that are no UTF-8.
bytes_of_no_text = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
anything = st.text(st.characters(codec="utf-8") | bytes_of_no_text, max_size=30)
# What is close enough to be taken for good, in part.
# fmt: off
pieces = st.sampled_from([
    "*", ",", " ", "\n", "\r", "\t", "\0", "\x1b", "\x85", "\u2028", "\xa0", "é", "\udcff",
    "0", "1", "80", "8080", "15001", "15008", "65535", "65536", "1337", "4294967294", "0x5",
    "10.0.0.0/8", "10.1.2.3", "127.0.0.1", "0.0.0.0/0", "::1", "fd00::/8", "::ffff:1.2.3.4", "::/0",
    "/", "/24", "/129", "%eth0", "@", "@file", "#", "-", "--", "=", "!", "+", ".", "..", ":", ";",
    "eth0", "net+", "a", "root", "nobody-here", "$", "(", "'", '"', "\\", "`",
    "REDIRECT", "NONE", "true", "false", "debug", "default:info", "5s", "1m30s", "ns", "legacy",
    "-j", "ACCEPT", "-A INPUT", "-x", "-b", "--dry-run", "--comments",
])
# fmt: on
nearly_good = st.lists(pieces, max_size=6).map("".join)
texts = st.one_of(anything, nearly_good, pieces)
words = st.one_of(
    st.sampled_from(SPELLINGS),
    st.builds("{}={}".format, st.sampled_from(SPELLINGS), texts),
    texts,
)
machines = st.builds(
    lambda text: FakeMachine({"root": 0, "a": 5}, {"root": 0, "a": 6}, {"file": text}), texts
)


def outcome(
    argv: list[str], environ: dict[str, str], machine: FakeMachine, dual_stack: bool = True
) -> Config | None:
    """The Config of a call, or None if it is refused as it should be."""
    try:
        config = read_config(argv, environ, machine)
        return settle(config, [read_address("fd00::7" if dual_stack else "10.0.0.7")])
    except BadCall as refusal:
        lines = str(refusal).split("\n")
        assert refusal.mistakes
        assert len(lines) == len(refusal.mistakes)
        assert all(line.isprintable() and line.strip() for line in lines)
        return None


def assert_rules_hold_nothing_but_rules(config: Config) -> None:
    """The text has one line a rule, and what is not ASCII in it was given as a name."""
    names = "".join((*config.excluded_interfaces, *config.virtual_interfaces))
    for family in Family:
        ruleset = build(config, family)
        lines = ruleset_text(ruleset).split("\n")
        assert lines.pop() == ""
        rules = [line for line in lines if line.startswith("-A ")]
        assert len(rules) == len(ruleset.rules)
        for line in lines:
            assert line.startswith(("*", ":", "-A ", "COMMIT"))
            strange = {char for char in line if not " " <= char <= "~"}
            assert strange <= set(names)
            assert strange.isdisjoint("\0\t\n\v\f\r\xa0")


def check(argv: list[str], environ: dict[str, str], machine: FakeMachine) -> None:
    config = outcome(argv, environ, machine)
    if config is not None:
        assert_rules_hold_nothing_but_rules(config)


@bounded
@given(st.sampled_from(SPELLINGS), texts, st.booleans(), machines)
@example("-c", "eth0\n-A INPUT", True, FakeMachine())
@example("-c", "eth0\u2028-A INPUT", True, FakeMachine())
@example("-k", "\x85", True, FakeMachine())
def test_any_text_behind_any_flag(
    spelling: str, text: str, attached: bool, machine: FakeMachine
) -> None:
    argv = [f"{spelling}={text}"] if attached else [spelling, text]
    check(argv, {}, machine)
    check([*argv, "--comments", "-i", "*", "-b", "*"], {}, machine)


@bounded
@given(st.sampled_from(VARIABLES), texts, machines)
def test_any_text_in_any_variable(name: str, text: str, machine: FakeMachine) -> None:
    check([], {name: text}, machine)


@bounded
@given(st.lists(words, max_size=8), st.dictionaries(st.sampled_from(VARIABLES), texts), machines)
def test_any_words_and_any_variables(
    argv: list[str], environ: dict[str, str], machine: FakeMachine
) -> None:
    check(argv, environ, machine)


@bounded
@given(st.lists(words, max_size=12))
def test_splitting_never_fails_and_loses_no_flag(argv: list[str]) -> None:
    line = split(argv)
    if not line.mistakes:
        assert bool(line.given) == bool(argv)


# Lists of good items: these always give rules.


def is_taken(name: str) -> bool:
    """What dev_valid_name in the kernel takes, less what a rule cannot be written with."""
    octets = name.encode()
    return (
        1 <= len(octets) <= 15
        and b"\xa0" not in octets  # a blank in Latin-1, which the kernel's isspace() follows
        and not set(octets) & set(b" \t\n\v\f\r/:\0\"'\\")
        and name not in (".", "..")
        and name[0] not in "-!"
    )


names = st.text(st.characters(codec="utf-8"), max_size=17) | st.text("+-!./:e0é\xa0 ", max_size=4)
ports = st.lists(st.integers(1, 65535), max_size=4)
owners = st.lists(st.integers(0, values.HIGHEST_ID), max_size=3)
networks = st.lists(st.ip_addresses(), max_size=4)
interfaces = st.lists(st.text("abé0.-_+@", min_size=1, max_size=7).filter(is_taken), max_size=3)
lists = st.fixed_dictionaries(
    {},
    optional={
        "-b": ports,
        "-d": ports,
        "-o": ports,
        "-q": ports,
        "-u": owners,
        "-g": owners,
        "-i": networks,
        "-x": networks,
        "-c": interfaces,
        "-k": interfaces,
    },
)


@bounded
@given(names)
def test_interfaces_are_the_names_that_the_kernel_takes(name: str) -> None:
    try:
        assert values.interface(name) == name
        taken = True
    except values.BadValue:
        taken = False
    assert taken is is_taken(name)


@bounded
@given(lists, st.booleans())
def test_lists_of_good_items_give_rules(items: dict[str, list[object]], comments: bool) -> None:
    argv = [f"{flag}={','.join(map(str, listed))}" for flag, listed in items.items()]
    config = outcome([*argv, f"--comments={comments}"], {}, FakeMachine())
    assert config is not None
    assert_rules_hold_nothing_but_rules(config)


# CIDRs, against another library's idea of them.


@bounded
@given(st.ip_addresses(), st.data())
def test_a_cidr_is_what_netaddr_says_it_is(address: object, data: st.DataObject) -> None:
    bits = 32 if "." in str(address) else 128
    length = data.draw(st.none() | st.integers(0, bits))
    text = str(address) if length is None else f"{address}/{length}"
    network, as_written = values.cidr(text)
    theirs = as_ipv4_where_mapped(netaddr.IPNetwork(text))
    assert network == read_network(str(theirs.cidr))
    assert network.num_addresses == theirs.size
    written = netaddr.IPAddress(str(address))
    written = written.ipv4() if written.is_ipv4_mapped() else written
    assert int(as_written) == int(written)
    assert as_written.version == written.version


def as_ipv4_where_mapped(network: netaddr.IPNetwork) -> netaddr.IPNetwork:
    """A network inside ::ffff:0:0/96 as the IPv4 network that it stands for."""
    mapped = network.ip.is_ipv4_mapped() and network.prefixlen >= 96
    return network.ipv4() if mapped else network


@bounded
@given(texts)
def test_an_accepted_cidr_is_valid_for_netaddr_too(text: str) -> None:
    try:
        network, _ = values.cidr(text)
    except values.BadValue:
        return
    assert network == read_network(str(as_ipv4_where_mapped(netaddr.IPNetwork(text)).cidr))
