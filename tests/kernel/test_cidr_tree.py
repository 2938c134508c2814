"""Trees of CIDRs in the kernel: as printed, as decided, found again, and taken away."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from pods import Pod, connect, listener, make_pod, namespace
from proxy_init.rules.model import Family
from proxy_init.rules.networks import read_network
from tests.running import (
    BOTH,
    both_backends,
    by_table,
    fresh_namespace,
    program,
    restored,
    run_in,
    saved,
    with_legacy_tables,
    with_rules,
)

pytestmark = both_backends

USUAL = ("-u", "1337", "-b", "*", "--ipv6")
TREE = ("--cidr-tree", "always")
EXCLUDED = {4: "203.0.113.0/24", 6: "2001:db8:ffff::/120"}
OTHER = {4: "198.51.100.0/24", 6: "2001:db8:fffe::/120"}


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    """A pod with a proxy in it, and the world outside."""
    with make_pod() as made, ExitStack() as listening:
        for namespace_of, who, port, uid in (
            (made.namespace, "proxy", 15001, 1337),
            (made.outside, "outside", 80, 0),
        ):
            listening.enter_context(listener(namespace_of, who, (port,), uid=uid, gid=uid))
        yield made


def even(directory: Path, name: str, *ranges: Mapping[int, str]) -> str:
    """A list file of the even addresses of ranges: of these no two can be merged."""
    path = directory / name
    networks = [read_network(text) for each in ranges for text in each.values()]
    path.write_text(
        "".join(
            f"{a}\n"
            for each in networks
            for a in map(each.__getitem__, range(0, each.num_addresses, 2))
        )
    )
    return f"@{path}"


@with_legacy_tables
def test_a_tree_is_in_the_kernel_as_it_is_printed_and_found_again(
    fresh: str, tmp_path: Path
) -> None:
    excluded, captured = even(tmp_path, "x", EXCLUDED), even(tmp_path, "i", EXCLUDED, OTHER)
    flags = (*USUAL, *TREE, "-x", excluded, "-i", captured, "-q", "443", "--comments")
    applied = run_in(fresh, *flags)
    assert applied.status == 0, applied.stderr
    for family in BOTH:
        printed = run_in(fresh, *flags, "-n", f"-{family.value}").stdout
        assert printed.count("-g ISTIO_EXCLUDED_") >= 4 <= printed.count("-g ISTIO_CAPTURED_")
        assert with_rules(saved(fresh, family)) == by_table(printed)
        with fresh_namespace() as other:
            result = restored(other, family, printed)
            assert result.returncode == 0, result.stderr
            assert with_rules(saved(other, family)) == by_table(printed)
    assert "result=unchanged" in run_in(fresh, *flags).stderr
    status = run_in(fresh, "status", *flags)
    assert (status.status, status.stdout) == (0, "")
    counters = run_in(fresh, "counters", *flags, "-O", "json")
    assert counters.status == 0
    assert "not wanted" not in counters.stdout and "missing" not in counters.stdout
    # As a list, and then nothing at all.
    assert run_in(fresh, *flags, "--cidr-tree", "never").status == 0
    with fresh_namespace() as other:
        run_in(other, *flags, "--cidr-tree", "never")
        for family in BOTH:
            assert saved(fresh, family)["nat"] == saved(other, family)["nat"]
    assert run_in(fresh, *flags).status == 0
    assert run_in(fresh, "clean").status == 0
    for family in BOTH:
        assert with_rules(saved(fresh, family)) == {}


@pytest.mark.parametrize("captured", ["all", "listed"])
@pytest.mark.parametrize(("ruleset", "version"), [("current", 4), ("current", 6), ("1.0", 4)])
def test_connections_go_where_a_list_would_send_them(
    pod: Pod, tmp_path: Path, ruleset: str, version: int, captured: str
) -> None:
    ranges = [{version: each[version]} for each in (EXCLUDED, OTHER)]
    inside = "*" if captured == "all" else even(tmp_path, "i", *ranges)
    lists = ("-x", even(tmp_path, "x", ranges[0]), "-i", inside)
    assert run_in(pod.namespace, "clean").status == 0
    applied = run_in(pod.namespace, *USUAL, *TREE, *lists, "--ruleset", ruleset)
    assert applied.status == 0, applied.stderr
    excluded, other = read_network(EXCLUDED[version]), read_network(OTHER[version])
    for address, is_excluded, is_listed in (
        *((excluded[number], True, True) for number in (0, 2, 62, 128, 254)),
        *((excluded[number], False, False) for number in (1, 63, 127, 255)),
        *((other[number], False, True) for number in (0, 64, 126, 254)),
        *((other[number], False, False) for number in (1, 255)),
    ):
        goes_to_proxy = not is_excluded and (captured == "all" or is_listed)
        for uid in (1000, 1337):
            answer = connect(pod.namespace, str(address), 80, uid=uid, gid=uid)
            expected = "proxy" if goes_to_proxy and uid == 1000 else "outside"
            assert answer.who == expected, (address, uid)


def test_rules_of_others_behind_ours_still_get_what_a_tree_lets_go(
    pod: Pod, tmp_path: Path
) -> None:
    flags = (*USUAL, *TREE, "-i", "*", "-x", even(tmp_path, "x", EXCLUDED))
    assert run_in(pod.namespace, *flags).status == 0
    rule = ("-d", "203.0.113.2/32", "-p", "tcp", "-j", "ACCEPT")
    namespace.run(pod.namespace, [program(Family.V4), "-t", "nat", "-A", "OUTPUT", *rule])
    try:
        assert connect(pod.namespace, "203.0.113.2", 80, uid=1000, gid=1000).who == "outside"
        listing = namespace.run(
            pod.namespace, [program(Family.V4, "-save"), "-c", "-t", "nat"]
        ).stdout
        assert f"[1:60] -A OUTPUT {' '.join(rule)}" in listing
    finally:
        namespace.run(pod.namespace, [program(Family.V4), "-t", "nat", "-D", "OUTPUT", *rule])
