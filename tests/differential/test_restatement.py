"""The program prints what the table of restatement.py says, for random calls in random pods.

tests/differential/run [COUNT] compares as many calls as it is told to.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from proxy_init.cli.apply import dry_run_text
from proxy_init.config.config import settle
from proxy_init.config.read import read_config
from proxy_init.rules.model import Family
from proxy_init.rules.networks import read_address
from proxy_init.rulesets import build
from tests.differential.restatement import FLAGS, SWITCHES, Pod, lines, restated, rows
from tests.strategies import VALUES_OF_CURRENT, Call, ipv4_loopbacks, owner_groups
from tests.unit.fakes import FakeMachine

ROWS = rows()
COUNT = int(os.environ.get("DIFFERENTIAL_CALLS", "500"))

# Random pods.

_RESOLV_CONF = [
    *("nameserver 10.96.0.10", "nameserver\t127.0.0.53", "nameserver 10.96.0.10 # again"),
    *("nameserver fd00::a", "nameserver ::127.0.0.53", "nameserver FD00:0::0A"),
    *("nameserver ::ffff:10.96.0.11", "nameserver 10.96.0.12/24", "nameserver fe80::1%eth0"),
    *("search svc.cluster.local", "nameserver", "nameservers 192.0.2.1", "nameserver dns"),
    "# nameserver 192.0.2.2\x0bnameserver 192.0.2.3",
]
_USERS = [{"man": 6, "alone": 7, **more} for more in ({}, {"istio-proxy": 4711}, {"envoy": 4712})]
_ADDRESSES = [(), ("10.0.0.5",), ("2001:db8::5",), ("10.0.0.5", "2001:db8::5", "2001:db8::6")]
pods: SearchStrategy[Pod] = st.builds(
    Pod,
    st.lists(st.sampled_from(_RESOLV_CONF), max_size=4).map("\n".join),
    st.sampled_from(_USERS),
    st.just({"man": 12, "envoy": 4713}),
    st.sampled_from(_ADDRESSES),
)

# Random calls: any flags and variables, of which some overrule others.

# Items that tests.strategies has not, by the flags in whose values they may stand.
_ODD_ITEMS = {
    "-u": ["man", "alone"],
    "-g": ["man"],
    "-i -x": ["::ffff:10.1.2.3", "::FFFF:10.1.2.3/100", "::ffff:127.0.0.1/9"],
}
_SWITCHED = ["1", "T", "true", "on", "Yes", "0", "F", "false", "off", "No"]


def _values(flag: str) -> SearchStrategy[str]:
    plain = VALUES_OF_CURRENT[flag]
    odd = [item for flags, items in _ODD_ITEMS.items() if flag in flags.split() for item in items]
    if not odd:
        return plain
    with_odd = st.tuples(plain, st.sampled_from(odd)).map(",".join)
    return st.one_of(plain, with_odd.map(lambda value: "*" if value.startswith("*") else value))


def _flags() -> Iterator[SearchStrategy[tuple[str, ...]]]:
    """Each flag as it may stand on the command line."""
    for line in lines(FLAGS):
        short, long, *_ = line.split()
        forms = [(short, "{}"), (long, "{}"), (f"{short}={{}}",), (f"{long}={{}}",)]
        yield st.builds(
            lambda form, value: tuple(word.format(value) for word in form),
            st.sampled_from(forms),
            _values(short),
        )
    for line in lines(SWITCHES):
        switch = line.split()[0]
        if switch not in ("-4", "-6"):
            yield st.sampled_from([(switch,), (f"{switch}=1",), (f"{switch}=F",)])
    yield st.sampled_from([("-4",), ("-6",), ("--no-ipv6",), ("--cidr-tree=never",), ()])


def _variables() -> Iterator[SearchStrategy[tuple[str, str]]]:
    """Each variable that has a flag, with a value."""
    for line in lines(FLAGS):
        short, _, variable, *_ = line.split()
        yield st.tuples(st.just(variable), _values(short))
    for line in lines(SWITCHES):
        for variable in line.split()[1:]:
            words = [*_SWITCHED, "ALL"] if "_DNS_" in f"{variable}_" else _SWITCHED
            yield st.tuples(st.just(variable), st.sampled_from(words))


_FLAGS = tuple(_flags())
_SOME_VARIABLES = st.lists(st.one_of(*_variables()), max_size=6).map(dict)
_ENVOY_USER = st.sampled_from([{}, {"ENVOY_USER": "envoy"}])
_OFTEN = st.sampled_from([False, True, True])


@st.composite
def calls(draw: DrawFn) -> Call:
    """A call with most of the flags, and some variables that a flag may overrule."""
    words = [word for flag in _FLAGS if draw(_OFTEN) for word in draw(flag)]
    variables = (_SOME_VARIABLES, _ENVOY_USER, owner_groups, ipv4_loopbacks)
    return Call(tuple(words), {k: v for some in variables for k, v in draw(some).items()})


def dry_run(call: Call, pod: Pod) -> str:
    """What the program prints for a call in a pod."""
    machine = FakeMachine(pod.users, pod.groups, {"/etc/resolv.conf": pod.resolv_conf})
    config = read_config((*call.flags, "--dry-run"), call.environ, machine)
    config = settle(config, [read_address(address) for address in pod.addresses])
    return dry_run_text(config, [build(config, family) for family in Family])


@settings(deadline=None, max_examples=COUNT)
@given(calls(), pods)
def test_the_program_prints_what_the_table_says(call: Call, pod: Pod) -> None:
    assert dry_run(call, pod) == restated(ROWS, call.flags, call.environ, pod)


def test_the_random_calls_would_show_that_any_one_row_is_missing() -> None:
    unnoticed = [*ROWS]

    @settings(deadline=None, max_examples=500, derandomize=True)
    @given(calls(), pods)
    def look(call: Call, pod: Pod) -> None:
        whole = restated(ROWS, call.flags, call.environ, pod)
        for row in [*unnoticed]:
            others = [other for other in ROWS if other is not row]
            if restated(others, call.flags, call.environ, pod) != whole:
                unnoticed.remove(row)

    look()
    assert unnoticed == []


# What injectors write.

USUAL = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", ""),
    *("-b", "*", "-d", "15090,15021,15020"),
)
OF_1_0 = ("-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "")
ANNOTATED = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-b", "8080, 9090, "),
    *("-i", "10.0.0.0/8,fd00::/8,127.0.0.1/32", "-x", "10.1.2.3/16,fd12::1", "--ipv6"),
    *("-q", "27017", "-o", "15053,9411", "-c", "eth1", "-k", "docker0,cni+"),
)
MANY_CIDRS = ",".join(f"10.{n // 250}.{n % 250}.0/24" for n in range(1000))
CALLS = {
    "image of 1.0": Call(OF_1_0),
    "usual": Call(USUAL),
    "dual stack": Call((*USUAL, "--ipv6"), {"ISTIO_DUAL_STACK": "true"}),
    "TPROXY": Call((*USUAL, "-m", "TPROXY")),
    "TPROXY, dual stack": Call((*USUAL, "-m", "TPROXY", "--ipv6", "--drop-invalid")),
    "DNS": Call((*USUAL, "--capture-all-dns", "--ipv6"), {"ISTIO_META_DNS_CAPTURE": "true"}),
    "annotations": Call(ANNOTATED),
    "most owner groups": Call(
        USUAL, {"ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(str(gid) for gid in range(64))}
    ),
    "many CIDRs as a list": Call((*USUAL, "-x", MANY_CIDRS, "--cidr-tree=never")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_the_program_called_as_injectors_do_prints_what_the_table_says(call: Call) -> None:
    # The whole program: so it must not depend on this machine's addresses.
    flags = call.flags if "--ipv6" in call.flags else (*call.flags, "--no-ipv6")
    command = [sys.executable, "-m", "proxy_init", "istio-iptables", *flags, "--dry-run"]
    printed = subprocess.run(
        [*command, "--log_output_level=default:error"],
        env=call.environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert printed.stdout == restated(ROWS, flags, call.environ, Pod())


def test_the_table_and_its_reader_share_no_code_with_the_program() -> None:
    code = "import sys, tests.differential.restatement; print('proxy_init' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "False\n"
