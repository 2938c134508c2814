"""Addresses and networks: what they say is what the standard library's `ipaddress` says."""

import ipaddress
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy_init.rules.networks import Address, network_around, read_address, read_network

from .fakes import bounded

Theirs = ipaddress.IPv4Address | ipaddress.IPv6Address

numbers_of_both = st.one_of(
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
    st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address),
    # What is special lies at the ends, and where IPv4 is mapped.
    st.integers(0, 2**32 - 1).map(ipaddress.IPv6Address),
    st.integers(0, 2**32 - 1).map(lambda n: ipaddress.IPv6Address(0xFFFF << 32 | n)),
    st.integers(2**128 - 2**120, 2**128 - 1).map(ipaddress.IPv6Address),
    st.integers(0xFE7F << 112, 0xFEC0 << 112).map(ipaddress.IPv6Address),
)


@bounded
@given(numbers_of_both)
@example(ipaddress.ip_address("127.0.0.1"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("::"))
@example(ipaddress.ip_address("169.254.169.254"))
@example(ipaddress.ip_address("224.0.0.1"))
def test_an_address_says_what_ipaddress_says(theirs: Theirs) -> None:
    ours = read_address(str(theirs))
    assert ours == Address(theirs.packed)
    assert (ours.version, int(ours)) == (theirs.version, int(theirs))
    assert ours.max_prefixlen == theirs.max_prefixlen
    assert ours.is_link_local == theirs.is_link_local
    assert ours.is_multicast == theirs.is_multicast
    assert ours.is_unspecified == theirs.is_unspecified
    assert ipaddress.ip_address(str(ours)) == theirs
    mapped = getattr(theirs, "ipv4_mapped", None)
    assert (ours.ipv4_mapped and str(ours.ipv4_mapped)) == (mapped and str(mapped))
    if mapped is None:  # of these, versions of Python say different things
        assert ours.is_loopback == theirs.is_loopback


@bounded
@given(numbers_of_both, st.integers(0, 128), numbers_of_both, st.data())
def test_a_network_says_what_ipaddress_says(
    theirs: Theirs, length: int, other: Theirs, data: st.DataObject
) -> None:
    length = min(length, theirs.max_prefixlen)
    network = ipaddress.ip_network((theirs.packed, length), strict=False)
    ours = network_around(read_address(str(theirs)), length)
    assert ours == read_network(str(network)) == read_network(str(ours))
    assert hash(ours) == hash(read_network(str(network)))
    assert (ours.version, ours.prefixlen) == (network.version, network.prefixlen)
    assert ours.network_address.packed == network.network_address.packed
    assert ours.netmask.packed == network.netmask.packed
    assert ours.num_addresses == network.num_addresses
    inside = network[data.draw(st.integers(0, network.num_addresses - 1))]
    for address in (inside, other):
        assert (read_address(str(address)) in ours) == (address in network)
    for place in (0, -1, network.num_addresses - 1, -network.num_addresses):
        assert ours[place].packed == network[place].packed
    with pytest.raises(IndexError):
        ours[network.num_addresses]
    if network.version == 4:
        assert ours.is_loopback == network.is_loopback


texts = st.one_of(
    st.text(st.sampled_from(string.hexdigits + ".:/%")),
    numbers_of_both.map(str),
    st.from_regex(r"([0-9]{1,4}\.){3}[0-9]{1,4}(/[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"([0-9a-f]{0,5}:){2,8}[0-9a-f.]{0,5}(/[0-9]{1,3})?", fullmatch=True),
    st.text(),
)


@bounded
@given(texts)
@example("::ffff:1.2.3.4")
@example("010.0.0.1")
@example("1.2.3.4\0")
@example("\udcff")
def test_a_text_is_an_address_or_none_as_to_ipaddress(text: str) -> None:
    try:
        theirs = ipaddress.ip_address(text)
    except ValueError:
        with pytest.raises(ValueError):
            read_address(text)
        return
    if "%" in text:  # a zone, which no rule has
        with pytest.raises(ValueError):
            read_address(text)
    else:
        assert read_address(text).packed == theirs.packed


@bounded
@given(texts)
@example("10.0.0.0/255.0.0.0")
@example("10.0.0.1/8")
def test_a_text_that_is_a_network_is_one_to_ipaddress_too(text: str) -> None:
    try:
        ours = read_network(text)
    except ValueError:
        return
    assert ipaddress.ip_network(text) == ipaddress.ip_network(str(ours))
