"""Random calls of proxy-init, for hypothesis: every flag that makes rules, well formed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

IN_THE_KERNEL = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
"""For tests that run in the kernel: what fails is not shrunk, which would take minutes."""


@dataclass(frozen=True)
class Call:
    """One command line and the variables that have no flag."""

    flags: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)


ports = st.integers(1, 65535).map(str)
# In lists, Istio's annotations let 0 and leading zeros pass.
listed_ports = st.one_of(ports, ports, ports, st.just("0"), ports.map(lambda port: f"0{port}"))
# Few numbers, so that they meet each other; and the ends of the range.
ids = st.sampled_from([0, 1, 1000, 1337, 2000, 65534, 4294967294]).map(str)
interfaces = st.sampled_from(["eth0", "eth1", "lo", "veth+", "+", "a-name_of.15ch+", "é", "net1"])


def lists(items: SearchStrategy[str], least: int = 1, most: int = 4) -> SearchStrategy[str]:
    """A comma list as people write them: blanks and an empty item here and there."""
    several = st.lists(items, min_size=least, max_size=most)
    return st.tuples(several, st.sampled_from([",", ", ", " ,", ",,"])).map(
        lambda x: x[1].join(x[0])
    )


@st.composite
def cidrs(draw: DrawFn, versions: Sequence[int] = (4, 6)) -> str:
    """A CIDR, host bits and all, or a bare address."""
    version = draw(st.sampled_from(versions))
    bits = 32 if version == 4 else 128
    number = draw(
        st.one_of(
            st.integers(0, 2**bits - 1),
            st.integers(0, 2**32 - 1),  # ::a.b.c.d is spelled with dots
            st.sampled_from([0x7F000001, 0x0A000001, 1, 0xFFFF_7F000001]),  # the last: IPv4-mapped
        )
    )
    address = IPv4Address(number % 2**32) if version == 4 else IPv6Address(number)
    length = draw(st.one_of(st.integers(0, bits), st.just(-1)))
    return str(address) if length < 0 else f"{address}/{length}"


_OF_BOTH: dict[str, SearchStrategy[str]] = {
    "-p": ports,
    "-z": ports,
    "-u": lists(ids, most=3),
    "-g": lists(ids, most=3),
    "-m": st.sampled_from(["REDIRECT", "TPROXY", "TPROXY", "NONE", ""]),
    "-b": st.one_of(st.just("*"), lists(listed_ports, least=0)),
    "-d": lists(listed_ports, least=0),
    "-t": st.sampled_from(["1", "1337", "0x539", "4294967295"]),
    "-r": st.sampled_from(["1", "133", "252", "256", "4294967295"]),
}
VALUES_OF_CURRENT: dict[str, SearchStrategy[str]] = {
    **_OF_BOTH,
    "-e": ports,
    "-i": st.one_of(st.just("*"), lists(cidrs(), least=0)),
    "-x": lists(cidrs(), least=0),
    "-q": lists(listed_ports),
    "-o": lists(listed_ports),
    "-c": lists(interfaces, most=3),
    "-k": lists(interfaces, most=3),
}
_OF_1_0: dict[str, SearchStrategy[str]] = {
    **_OF_BOTH,
    "-i": st.one_of(st.just("*"), lists(cidrs(versions=(4,)), least=0)),
    "-x": lists(cidrs(versions=(4,)), least=0),
}
_SWITCHES = ["--drop-invalid", "--dual-stack", "--redirect-dns", "--capture-all-dns", "--comments"]
_IPV6 = st.sampled_from([(), ("--ipv6",), ("--ipv6",), ("--no-ipv6",)])
# The kernel takes 64 owner groups in a rule; iptables-restore's parser gives up at 50.
owner_groups: SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    lists(ids).map(lambda text: {"ISTIO_OUTBOUND_OWNER_GROUPS": text}),
    lists(ids).map(lambda text: {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": text}),
)
ipv4_loopbacks: SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.integers(8, 32).map(lambda n: {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": f"127.0.0.1/{n}"}),
)


@st.composite
def calls(draw: DrawFn) -> Call:
    """A call for either rule set, with any of its flags, each with any good value."""
    old = draw(st.sampled_from([False, False, True]))
    values = _OF_1_0 if old else VALUES_OF_CURRENT
    names = draw(st.lists(st.sampled_from(sorted(values)), unique=True))
    flags = [word for name in names for word in (name, draw(values[name]))]
    flags += draw(_IPV6)
    if old:
        return Call((*flags, "--ruleset", "1.0"))
    flags += draw(st.lists(st.sampled_from(_SWITCHES), unique=True))
    return Call(tuple(flags), {**draw(owner_groups), **draw(ipv4_loopbacks)})
