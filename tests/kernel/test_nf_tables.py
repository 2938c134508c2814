"""Our own tables of nf_tables: what others do to them, in them and beside them.

What is here is read with the program nft, and written with it by others.
"""

import errno
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from pods import Pod, connect, listener, make_pod, namespace
from proxy_init.kernel.nftables import snapshot, tables
from proxy_init.kernel.system.netlink import Connection
from proxy_init.rules.model import BUILT_IN, Family
from tests.fault_injection import called, libc, replace, run_patched, told
from tests.foreign import run, whole
from tests.running import BOTH, Result, fresh_namespace, our_listing, run_here, run_in
from tests.socket_options import keep_send_buffers_small, take_away_legacy_tables
from tests.strategies import IN_THE_KERNEL, Call, calls

NFT = ("--backend", "nft")
ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
LONG = tuple(f"10.{n}.0.0/16" for n in range(2, 60)) + tuple(f"fd00:{n}::/32" for n in range(1, 40))
WITH_SETS = (*ALL, "-x", ",".join(LONG))
TPROXY = (*ALL, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "--drop-invalid")
SETS = {
    "REDIRECT": ALL,
    "TPROXY": TPROXY,
    "1.0": ("-u", "1337", "-i", "*", "-b", "*", "-m", "TPROXY", "--ruleset", "1.0"),
    "IPv4": (*ALL[:-1], "--no-ipv6", "-x", "10.0.0.0/9,192.0.2.0/24"),
}
every_set = pytest.mark.parametrize("flags", SETS.values(), ids=SETS)
OTHERS = """
table inet mesh {
    set ports {
        type inet_service
        elements = { 80, 443 }
    }
    chain in {
        type filter hook input priority 0; policy accept;
        tcp dport @ports counter accept
    }
    chain nat {
        type nat hook output priority -100;
        tcp dport 5 meta skuid 5 counter redirect to :7
    }
}
table ip nat {
    chain OUTPUT {
        type nat hook output priority -100;
        tcp dport 9 accept
    }
}
table ip6 theirs {
    chain c {
        type filter hook prerouting priority -150;
        limit rate 5/second
    }
}
"""


def applied(name: str, *flags: str) -> Result:
    result = run_in(name, *flags, *NFT)
    assert result.status == 0, result.stderr
    return result


def nft(name: str, text: str) -> None:
    """Let the program nft do something."""
    words = ["ip", "netns", "exec", name, "nft", "-f", "-"]
    subprocess.run(words, input=text, text=True, check=True, timeout=30)


def ours(name: str) -> dict[tuple[Family, str], str]:
    return {(family, each): our_listing(name, each, family) for family in BOTH for each in BUILT_IN}


def as_in_a_fresh_namespace(*flags: str) -> dict[tuple[Family, str], str]:
    with fresh_namespace() as name:
        applied(name, *flags)
        return ours(name)


def as_listed_in_a_fresh_namespace(*flags: str) -> str:
    with fresh_namespace() as name:
        applied(name, *flags)
        return run(name, "nft", "list", "ruleset")


# What somebody does to our rules is named, and put right.

DAMAGE = {
    "a deleted rule": "flush chain inet istio-proxy-nat istio-redirect",
    "an added rule": "add rule inet istio-proxy-nat istio-output accept",
    "one above": "insert rule inet istio-proxy-nat istio-output ip daddr 1.2.3.4 return",
    "one that we do not know": "add rule inet istio-proxy-nat istio-output meta cpu 7 drop",
    "of one family": "insert rule inet istio-proxy-nat istio-output meta nfproto ipv6 return",
    "a chain": "add chain inet istio-proxy-nat theirs",
    "a base chain": "add chain inet istio-proxy-nat x { type nat hook input priority 5; }",
    "a policy": "add chain inet istio-proxy-nat output "
    "{ type nat hook output priority -100; policy drop; }",
    "asleep": "add table inet istio-proxy-nat { flags dormant; }",
    "all of it": "delete table inet istio-proxy-nat",
    "called elsewhere": "delete table inet istio-proxy-nat; table inet istio-proxy-nat "
    "{ chain output { type nat hook output priority 50; accept; }; }",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_was_done_to_our_tables_is_named_and_repaired(fresh: str, damage: str) -> None:
    applied(fresh, *ALL)
    before = ours(fresh)
    nft(fresh, damage)
    status = run_in(fresh, "status", *ALL, *NFT)
    assert status.status == 3 and "nat, in the kernel" in status.stdout
    if damage != DAMAGE["all of it"]:  # after which there is nothing to reconcile with
        assert run_in(fresh, *ALL, *NFT, "--no-reconcile").status == 1
    assert "result=applied" in applied(fresh, *ALL).stderr
    assert ours(fresh) == before
    assert run_in(fresh, "status", *ALL, *NFT).stdout == ""


def test_rules_in_another_order_are_named(fresh: str) -> None:
    applied(fresh, *ALL)
    before = ours(fresh)
    listing = run(fresh, "nft", "-a", "list", "chain", "inet", "istio-proxy-nat", "istio-output")
    handle = re.findall(r"# handle (\d+)", listing)[1]
    rule = re.findall(rf"^\s*(.*) # handle {handle}$", listing, re.M)[0]
    chain = "inet istio-proxy-nat istio-output"
    nft(fresh, f"delete rule {chain} handle {handle}\nadd rule {chain} {rule}")
    result = run_in(fresh, "status", *ALL, *NFT)
    assert result.status == 3 and "+-A ISTIO_OUTPUT" in result.stdout
    applied(fresh, *ALL)
    assert ours(fresh) == before


@every_set
def test_the_same_flags_again_change_nothing(fresh: str, flags: tuple[str, ...]) -> None:
    applied(fresh, *flags)
    before = run(fresh, "nft", "-a", "list", "ruleset")
    assert "result=unchanged" in applied(fresh, *flags).stderr
    assert run(fresh, "nft", "-a", "list", "ruleset") == before
    assert run_in(fresh, "status", *flags, *NFT).stdout == ""


@every_set
@pytest.mark.parametrize("before", SETS.values(), ids=SETS)
def test_other_flags_replace_everything(
    fresh: str, before: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    applied(fresh, *before)
    applied(fresh, *flags)
    assert ours(fresh) == as_in_a_fresh_namespace(*flags)
    assert run_in(fresh, "clean").status == 0
    assert run(fresh, "nft", "list", "ruleset") == ""


def test_chains_that_stay_as_they_were_keep_their_counts_and_handles(fresh: str) -> None:
    applied(fresh, *ALL)
    chain = ("nft", "-a", "list", "chain", "inet", "istio-proxy-nat")
    kept = run(fresh, *chain, "istio-redirect"), run(fresh, *chain, "output")
    applied(fresh, *ALL, "-x", "10.1.0.0/16,fd00:1::/32")
    assert (run(fresh, *chain, "istio-redirect"), run(fresh, *chain, "output")) == kept
    assert "ip6 daddr fd00:1::/32" in run(fresh, *chain, "istio-output")
    applied(fresh, *ALL, "-x", "10.1.0.0/16,fd00:1::/32", "--force-apply")
    assert run(fresh, *chain, "output") != kept[1]


@every_set
def test_what_others_have_in_nf_tables_stays_to_the_byte(
    fresh: str, flags: tuple[str, ...]
) -> None:
    nft(fresh, OTHERS)
    run(fresh, "ip6tables-nft", "-t", "mangle", "-A", "PREROUTING", "-i", "eth7", "-j", "RETURN")
    before = whole(fresh)
    applied(fresh, *flags)
    assert run_in(fresh, "clean").status == 0
    assert whole(fresh) == before


# What others have left.


def legacy_text(flags: tuple[str, ...], family: Family) -> str:
    """The rules as an older version has put them into nf_tables, through iptables-nft-restore."""
    with fresh_namespace() as name:
        result = run_in(name, *flags, "--backend", "legacy", "-n", f"-{family.value}")
        return result.stdout


def leave(name: str, flags: tuple[str, ...]) -> None:
    for family, prefix in zip(BOTH, ("ip", "ip6"), strict=True):
        subprocess.run(
            ["ip", "netns", "exec", name, f"{prefix}tables-nft-restore", "--noflush"],
            input=legacy_text(flags, family),
            text=True,
            check=True,
            timeout=30,
        )


def iptables_nft(name: str) -> str:
    both = (run(name, f"{prefix}tables-nft-save") for prefix in ("ip", "ip6"))
    return re.sub(r"^#.*\n", "", "".join(both), flags=re.M)


@every_set
def test_what_iptables_nft_left_is_ours_and_is_replaced(fresh: str, flags: tuple[str, ...]) -> None:
    others = ("-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-m", "statistic", "--mode", "nth")
    run(fresh, "iptables-nft", *others, "--every", "3", "--packet", "0", "-j", "RETURN")
    run(fresh, "ip6tables-nft", "-t", "filter", "-A", "INPUT", "-i", "eth7", "-j", "ACCEPT")
    leave(fresh, flags)
    assert "ISTIO_" in iptables_nft(fresh)
    status = run_in(fresh, "status", *flags)
    assert status.status == 3 and "of iptables-nft, in the kernel" in status.stdout

    result = run_in(fresh, *flags)  # auto: rules of ours are in nf_tables already

    assert result.status == 0 and "backend=nft" in result.stderr, result.stderr
    assert ours(fresh) == as_in_a_fresh_namespace(*flags)
    left = iptables_nft(fresh)
    assert [line for line in left.splitlines() if line.startswith("-A")] == [
        "-A OUTPUT -p tcp -m statistic --mode nth --every 3 --packet 0 -j RETURN",
        "-A INPUT -i eth7 -j ACCEPT",
    ]
    assert "ISTIO_" not in left
    assert run_in(fresh, "status", *flags).stdout == ""


@every_set
def test_what_iptables_nft_left_is_cleaned(fresh: str, flags: tuple[str, ...]) -> None:
    run(fresh, "iptables-nft", "-t", "nat", "-A", "PREROUTING", "-i", "eth7", "-j", "RETURN")
    leave(fresh, flags)
    assert run_in(fresh, "clean").status == 0
    left = iptables_nft(fresh)
    assert [line for line in left.splitlines() if line.startswith("-A")] == [
        "-A PREROUTING -i eth7 -j RETURN"
    ]
    assert "ISTIO_" not in left


# As the native mode of istio-iptables 1.28 writes it (tools/istio-nftables), from its own run.
ISTIO = """
table inet istio-proxy-nat {
    chain prerouting {
        type nat hook prerouting priority dstnat; meta l4proto tcp jump istio-inbound
    }
    chain output {
        type nat hook output priority -100; jump istio-output
    }
    chain istio-inbound {
        tcp dport 15008 return
        meta l4proto tcp jump istio-in-redirect
    }
    chain istio-redirect {
        meta l4proto tcp redirect to :15001
    }
    chain istio-in-redirect {
        meta l4proto tcp redirect to :15006
    }
    chain istio-output {
        oifname "lo" ip saddr 127.0.0.6/32 return
        oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != { 53, 15008 } meta skuid 1337 \\
        jump istio-in-redirect
        oifname "lo" meta skuid != 1337 return
        meta skuid 1337 return
        ip daddr 127.0.0.1/32 return
        jump istio-redirect
    }
}
table inet istio-proxy-mangle {
    chain prerouting {
        type filter hook prerouting priority mangle;
    }
}
"""


@every_set
def test_the_tables_of_istio_s_native_mode_are_replaced_and_cleaned(
    fresh: str, flags: tuple[str, ...]
) -> None:
    nft(fresh, ISTIO)
    result = run_in(fresh, *flags)
    assert result.status == 0 and "backend=nft" in result.stderr, result.stderr
    assert ours(fresh) == as_in_a_fresh_namespace(*flags)
    nft(fresh, ISTIO)
    assert run_in(fresh, "clean").status == 0
    assert run(fresh, "nft", "list", "ruleset") == ""


def test_the_rules_of_istio_s_native_mode_are_walked(fresh: str) -> None:
    nft(fresh, ISTIO)
    call = ("explain", *ALL, "--live", "--to", "192.0.2.7:80", "-O", "json")
    live = json.loads(run_in(fresh, *call).stdout)
    assert (live["verdict"], live["port"]) == ("captured", 15001)
    assert live["either"] == []


# Refusals, and other writers.


def refusing(number: int, commits: int, times: int = 1) -> Callable[[], None]:
    """A patch: the kernel takes some transactions, and then refuses the next ones."""

    def patch() -> None:
        told = [0]

        def tell(real: Callable[..., None], line: Connection, messages: list[Any]) -> None:
            if messages[0].kind == 16:  # NFNL_MSG_BATCH_BEGIN: it is of nf_tables
                told[0] += 1
                if commits < told[0] <= commits + times:
                    from proxy_init.kernel.system.netlink import MessageRefused

                    raise MessageRefused(number, 1)
            real(line, messages)

        replace(Connection, "tell", tell)

    return patch


@pytest.mark.parametrize("commits", [0, 1, 2])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ALL, TPROXY),
        (TPROXY, ALL),
        (WITH_SETS, TPROXY),
        ((*TPROXY, *WITH_SETS), ("clean",)),
        ((), TPROXY),
    ],
    ids=["to TPROXY", "to REDIRECT", "sets", "clean", "Istio's"],
)
def test_a_refusal_takes_back_what_was_written(
    fresh: str, commits: int, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    nft(fresh, OTHERS)
    if old:
        applied(fresh, *old)
    else:
        nft(fresh, ISTIO)
    before = whole(fresh)
    result = run_patched(fresh, refusing(errno.ENOMEM, commits), *new, *NFT)
    if result.status == 0:
        assert commits >= 2, result.stderr
        return
    assert result.status == 1
    assert "the kernel refused: " in told(result)[0] and "Cannot allocate" in told(result)[0]
    assert _sorted(whole(fresh)) == _sorted(before)


def _sorted(text: str) -> list[str]:
    # Tables and chains that come back stand behind the others; handles are not printed.
    return sorted(text.splitlines())


def test_what_iptables_nft_had_is_put_back_too(fresh: str) -> None:
    run(fresh, "iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.0/24", "-j", "RETURN")
    leave(fresh, TPROXY)
    run(fresh, "iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.3.0/24", "-j", "RETURN")
    before = iptables_nft(fresh)
    refused = 0
    for commits in range(8):
        result = run_patched(fresh, refusing(errno.ENOMEM, commits), *TPROXY)
        if result.status == 0:
            break
        refused += 1
        assert "could not" not in result.stderr and "could be" not in result.stderr, result.stderr
        assert iptables_nft(fresh) == before
        assert not any(ours(fresh).values())
    assert refused >= 4


def test_what_could_not_be_taken_back_is_not_passed_over(fresh: str) -> None:
    applied(fresh, *ALL)
    result = run_patched(fresh, refusing(errno.ENOMEM, 1, times=9), *TPROXY, *NFT)
    assert result.status == 1
    lines = told(result)
    assert "not all changes could be undone: the kernel refused" in lines[0], lines
    assert "the kernel refused: table inet istio-proxy-nat" in lines[1], lines


def meddling(times: int) -> Callable[[], None]:
    """A patch: another program changes nf_tables just before each of the first transactions."""

    def patch() -> None:
        left = [times]

        def tell(real: Callable[..., None], line: Connection, messages: list[Any]) -> None:
            if left[0]:
                left[0] -= 1
                words = f"add table inet other{left[0]}; add rule inet mesh in accept"
                subprocess.run(["nft", words], check=True)
            real(line, messages)

        replace(Connection, "tell", tell)

    return patch


def test_a_transaction_of_an_older_generation_is_made_again(fresh: str) -> None:
    nft(fresh, OTHERS)
    result = run_patched(fresh, meddling(3), *TPROXY, *NFT)
    assert result.status == 0, result.stderr
    assert ours(fresh) == as_in_a_fresh_namespace(*TPROXY)
    listing = run(fresh, "nft", "list", "ruleset")
    assert [f"table inet other{n} " in listing for n in range(3)] == [True] * 3


def test_who_is_always_disturbed_gives_up(fresh: str) -> None:
    nft(fresh, OTHERS)

    def patch() -> None:
        setattr(tables, "MOST_TRIES", 4)  # noqa: B010  # mypy forbids to assign it
        meddling(100)()

    result = run_patched(fresh, patch, *TPROXY, *NFT)
    assert result.status == 1
    assert "changed by another program 4 times" in told(result)[0]
    assert not any(ours(fresh).values())


def test_a_reading_that_another_program_disturbs_is_made_again(fresh: str) -> None:
    applied(fresh, *ALL)

    def patch() -> None:
        left = [2]

        def tables(real: Callable[..., Iterator[Any]], *arguments: object) -> Iterator[Any]:
            found = list(real(*arguments))
            if left[0]:
                left[0] -= 1
                subprocess.run(["nft", f"add table inet other{left[0]}"], check=True)
                return iter(found[:1])  # as if cut short
            return iter(found)

        replace(snapshot, "_tables", tables)

    result = run_patched(fresh, patch, "status", *ALL, *NFT)
    assert (result.status, result.stdout) == (0, ""), result.stderr


def test_an_expression_that_the_kernel_lacks_names_the_rule(fresh: str) -> None:
    from proxy_init.kernel.nftables import expressions

    def patch() -> None:
        real = expressions.redirected
        setattr(expressions, "redirected", lambda: real().replace(b"redir", b"redix"))  # noqa: B010

    result = run_patched(fresh, patch, *ALL, *NFT)
    assert result.status == 4, result.stderr
    lines = told(result)
    assert "chain istio-in-redirect, rule -p tcp" in lines[0] and "No such file" in lines[0]
    assert "missing expression redix: on the node, modprobe nft_redix" in lines
    assert run(fresh, "nft", "list", "ruleset") == ""


# Counts.


@pytest.mark.parametrize("version", [4, 6])
def test_counts_are_those_of_the_program_nft(version: int) -> None:
    to = {4: "198.51.100.7", 6: "2001:db8:1::7"}[version]
    with (
        make_pod() as pod,
        listener(pod.namespace, "proxy", (15001, 15006), uid=1337, gid=1337),
        listener(pod.outside, "outside", (80,)),
    ):
        applied(pod.namespace, *ALL)
        for _ in range(3):
            assert connect(pod.namespace, to, 80).who == "proxy"
        assert connect(pod.namespace, to, 80, uid=1337, gid=1337).who == "outside"
        shown = _counters(pod)
        assert (
            shown["IPv4 and IPv6", "OUTPUT", "outbound traffic: the chain ISTIO_OUTPUT decides"]
            == 4
        )
        assert shown["IPv4 and IPv6", "ISTIO_OUTPUT", "sent by the proxy itself (uid 1337)"] == 1
        listed = run(pod.namespace, "nft", "list", "table", "inet", "istio-proxy-nat")
        packets = [int(n) for n in re.findall(r"counter packets (\d+)", listed)]
        assert sorted(packets) == sorted(shown.values())


def _counters(pod: Pod) -> dict[tuple[str, str, str], int]:
    result = run_in(pod.namespace, "counters", *ALL, *NFT, "-O", "json")
    rules = json.loads(result.stdout)["rules"]
    assert {rule["standing"] for rule in rules} == {"wanted"}
    found = {(r["family"], r["chain"], r["why"]): r["packets"] for r in rules}
    assert len(found) == len(rules)
    return found


# With no x_tables in the kernel, and little privilege.


@every_set
def test_without_x_tables_all_of_it_works(fresh: str, flags: tuple[str, ...]) -> None:
    for words in (flags, ("status", *flags), ("counters", *flags), ("check", *flags)):
        result = run_patched(fresh, take_away_legacy_tables, *words)
        assert result.status == 0, result.stderr
    assert "xt " not in run(fresh, "nft", "list", "ruleset")
    assert ours(fresh) == as_in_a_fresh_namespace(*flags)
    assert run_patched(fresh, take_away_legacy_tables, "clean").status == 0
    assert run(fresh, "nft", "list", "ruleset") == ""


def test_the_rights_of_a_user_namespace_are_enough(fresh: str) -> None:
    def work() -> tuple[list[int], str]:
        called(libc.unshare, 0x10000000 | 0x40000000)  # CLONE_NEWUSER, CLONE_NEWNET
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("0 0 1")
        Path("/proc/self/gid_map").write_text("0 0 1")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        flags = ("-u", "0", "-g", "0", *ALL[6:], "-m", "TPROXY", *NFT)
        calls = (flags, ("status", *flags), ("check", *flags), ("counters", *flags), ("clean",))
        statuses = [run_here(*words).status for words in calls]
        left = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True)
        return statuses, left.stdout

    run_in(fresh, "--version")
    assert namespace.call(fresh, work, timeout=60) == ([0] * 5, "")


@pytest.mark.parametrize("version", [4, 6])
def test_lists_that_cannot_be_sent_at_once_are_sent_in_pieces(
    fresh: str, tmp_path: Path, version: int
) -> None:
    network = {4: "11.{}.{}.0/25", 6: "fd00:{:x}:{:x}::/48"}[version]
    networks = [network.format(n >> 8, n & 255) for n in range(6_000)]
    file, changed = tmp_path / "list", tmp_path / "changed"
    file.write_text("\n".join(networks[:-5]))
    changed.write_text("\n".join(networks[3:]))
    flags, others = ((*ALL, *NFT, "-x", f"@{each}") for each in (file, changed))

    def small(*words: str, also: Callable[[], None] = lambda: None) -> Result:
        def patch() -> None:
            keep_send_buffers_small()
            also()

        return run_patched(fresh, patch, *words)

    for words in (flags, others):
        assert "result=applied" in small(*words).stderr
        result = small("status", *words)
        assert (result.status, result.stdout) == (0, ""), result.stderr
    before = run(fresh, "nft", "list", "ruleset")
    assert before == as_listed_in_a_fresh_namespace(*others)
    refused = 0
    for commits in (0, 1, 7, 15, 20, 99):  # in all stages of the change, and in none
        result = small(*flags, also=refusing(errno.ENOMEM, commits))
        refused += result.status == 1
        assert "could" not in result.stderr, result.stderr
        assert (run(fresh, "nft", "list", "ruleset") == before) is (result.status == 1)
    assert refused == 5
    assert small("clean").status == 0
    assert run(fresh, "nft", "list", "ruleset") == ""


def test_a_set_that_a_killed_run_has_left_goes_with_the_next_run(fresh: str) -> None:
    applied(fresh, *WITH_SETS)
    before = run(fresh, "nft", "list", "ruleset")
    content = "type ipv4_addr; flags interval; elements = { 192.0.2.0/24 };"
    nft(fresh, f"add set inet istio-proxy-nat ISTIO-EXCLUDED-IPV4 {{ {content} }}")
    assert "result=applied" in applied(fresh, *WITH_SETS).stderr
    assert run(fresh, "nft", "list", "ruleset") == before
    assert "result=unchanged" in applied(fresh, *WITH_SETS).stderr


def test_rules_that_cannot_be_sent_at_once_say_what_that_takes(fresh: str) -> None:
    ports = ",".join(map(str, range(1, 3000)))
    result = run_patched(fresh, keep_send_buffers_small, *ALL, *NFT, "-o", ports)
    assert result.status == 4 and "net.core.wmem_max" in told(result)[0], result.stderr
    assert run(fresh, "nft", "list", "ruleset") == ""


def test_ipv6_that_is_not_captured_is_not_touched() -> None:
    with (
        make_pod() as pod,
        listener(pod.namespace, "proxy", (15001, 15006), uid=1337, gid=1337),
        listener(pod.outside, "outside", (80,)),
    ):
        applied(pod.namespace, *ALL[:-1], "--no-ipv6", "--drop-invalid")
        assert connect(pod.namespace, "198.51.100.7", 80).who == "proxy"
        assert connect(pod.namespace, "2001:db8:1::7", 80).who == "outside"
        listed = run(pod.namespace, "nft", "list", "ruleset")
        for rule in re.findall(r"^\t\t(.* counter .*)$", listed, re.M):
            assert re.match("(meta nfproto ipv4|ip [sd]addr) ", rule), rule


# The dry run.


@settings(IN_THE_KERNEL, max_examples=60)
@given(calls())
@example(Call((*TPROXY, "--comments", "-k", "eth0,eth+", "-c", "é,lo")))
@example(Call(("-i", ",".join(LONG), "-x", "0.0.0.0/1,8000::/1," + ",".join(LONG), "--ipv6")))
@example(Call(("-u", "1337", "-i", "*", "-b", "*", "-m", "TPROXY", "--ruleset", "1.0")))
def test_the_dry_run_is_what_nft_takes_and_what_nft_lists(call: Call) -> None:
    with fresh_namespace() as name, fresh_namespace() as other:
        printed = run_in(name, *call.flags, *NFT, "-n", environ=call.environ).stdout
        text = re.sub(r"^# .*\n", "", printed, flags=re.M)
        result = run_in(name, *call.flags, *NFT, environ=call.environ)
        assert result.status == 0, result.stderr
        assert run(name, "nft", "list", "ruleset") == text
        nft(other, printed)
        assert run(other, "nft", "list", "ruleset") == text
        again = run_in(other, "status", *call.flags, *NFT, environ=call.environ).stdout
        assert not [
            line
            for line in again.splitlines()
            if " rule add " not in line
            and " route add " not in line
            and " address add " not in line
        ]


def test_the_dry_run_of_one_family_holds_no_rule_of_the_other(fresh: str) -> None:
    for family in BOTH:
        text = run_in(fresh, *TPROXY, *NFT, "-n", f"-{family.value}").stdout
        nft(fresh, text)
        listed = run(fresh, "nft", "list", "ruleset")
        assert listed == re.sub(r"^# .*\n", "", text, flags=re.M)
        (other,) = (each for each in BOTH if each is not family)
        assert not any(our_listing(fresh, table, other) for table in BUILT_IN)
        nft(fresh, "flush ruleset")


# Long lists.


def test_ten_thousand_networks_are_one_rule(fresh: str, tmp_path: Path) -> None:
    networks = [f"{n >> 8 & 255}.{n & 255}.7.0/24" for n in range(256 * 11, 256 * 11 + 10_000)]
    file = tmp_path / "list"
    file.write_text("\n".join(networks))
    flags = ("-i", "*", "-b", "*", "-x", f"@{file}", "--ipv6")
    applied(fresh, *flags)
    listed = run(fresh, "nft", "list", "ruleset")
    assert listed.count("/24") == 10_000
    assert 'comment "10,000 networks of -x"' in listed
    assert "result=unchanged" in applied(fresh, *flags).stderr
    explained = run_in(fresh, "explain", *flags, "--live", "--to", "11.9.7.3:80")
    assert "one of 10,000 networks is excluded (-x)" in " ".join(explained.stdout.split())
    file.write_text("\n".join(networks[1:]))
    status = run_in(fresh, "status", *flags)
    assert status.status == 3 and "--networks 9999" in status.stdout
    applied(fresh, *flags)
    assert run(fresh, "nft", "list", "ruleset").count("/24") == 9_999
    nft(fresh, "add element inet istio-proxy-nat istio-excluded-ipv4 { 5.5.5.5 }")
    assert run_in(fresh, "status", *flags).status == 3
    applied(fresh, *flags)
    assert run_in(fresh, "status", *flags).status == 0
    assert run_in(fresh, "clean").status == 0
    assert run(fresh, "nft", "list", "ruleset") == ""
