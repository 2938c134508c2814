"""After apply, re-apply with any flags and clean, nothing tells that we have been there."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_init.rules.model import Family
from tests.foreign import load, plant, run, surround, whole
from tests.running import BOTH, both_backends, fresh_namespace, program, run_in
from tests.strategies import IN_THE_KERNEL, Call, calls

pytestmark = both_backends

# tests.foreign has the other tables. All of them are there from the start: none goes away again.
RAW = """\
*raw
:PREROUTING ACCEPT [21:1260]
:OUTPUT DROP [22:1320]
:ANOTHER - [0:0]
[23:1380] -A PREROUTING -p udp -m udp --dport 53 -j CT --notrack
[24:1440] -A OUTPUT -o eth1 -j RETURN
[25:1500] -A OUTPUT -p udp -m udp --dport 53 -j CT --zone 1
[26:1560] -A ANOTHER -j RETURN
COMMIT
"""
# RETURNs without a twin, of interfaces that -c and -k name too.
ALONE = """
{v4} -t nat -A PREROUTING -i eth1 -c 31 1860 -j RETURN
{v6} -t nat -A OUTPUT -o eth0 -c 32 1920 -j RETURN
{v4} -t mangle -A OUTPUT -o net1 -c 33 1980 -j RETURN
{v6} -t filter -A INPUT -c 34 2040 -j REJECT
"""
ROUTING = """
ip address add 10.7.0.1/32 dev lo; ip address add fd00:7::1/128 dev lo nodad
for ip in 'ip -4' 'ip -6'; do
    $ip rule add fwmark 0x539 lookup 77; $ip rule add fwmark 1 lookup 77 priority 9
    $ip rule add iif lo lookup 78 priority 40000; $ip rule add fwmark 1337 prohibit
    $ip route add local default dev lo proto static table 77
    $ip route add unreachable default metric 4444 table 78
done
ip route add blackhole 10.8.0.0/16; ip -6 route add blackhole fd00:8::/32
# The kernel adds the local route of a new IPv6 address a little later.
for attempt in $(seq 500); do
    ip -6 route show table local | grep -q fd00:7::1 && break; sleep 0.01
done
"""


def well_told(call: Call) -> Call:
    """A -k interface of which nothing is captured leaves a RETURN that nobody can tell from a
    foreign one; with all captured, it has its twin."""
    return replace(call, flags=(*call.flags, "-i", "*")) if "-k" in call.flags else call


@settings(IN_THE_KERNEL, max_examples=15)
@given(st.lists(calls().map(well_told), min_size=11, max_size=11))
def test_eleven_calls_and_a_clean_leave_all_as_it_was(some: list[Call]) -> None:
    with fresh_namespace() as name, TemporaryDirectory() as directory:
        plant(name, Path(directory))
        for family in BOTH:
            load(name, family, RAW, Path(directory))
        surround(name)
        alone = ALONE.format(v4=program(Family.V4), v6=program(Family.V6))
        run(name, "sh", "-euc", alone + ROUTING)
        before = whole(name)
        for call in some:
            result = run_in(name, *call.flags, environ=call.environ)
            assert result.status == 0, result.stderr
        result = run_in(name, "clean")
        assert result.status == 0, result.stderr
        assert whole(name) == before
        assert (run_in(name, "clean").status, whole(name)) == (0, before)
