"""`prove`: what it shows of rules as they should be, and of rules that somebody has damaged."""

import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy_init.analysis.packet_walk import Direction, PodNetwork
from proxy_init.analysis.promises import CAPTURED, PROMISES, SKIPPED, promised
from proxy_init.analysis.prove import Sample, compare, prove
from proxy_init.config.config import Config
from proxy_init.frozen import replace
from proxy_init.rules.matches import DestinationPort, UnknownMatch
from proxy_init.rules.model import Chain, Family, Rule, Table
from proxy_init.rules.options import Option
from proxy_init.rules.targets import ACCEPT, DROP
from proxy_init.rulesets import build
from tests.damaged_rules import damaged
from tests.random_packets import config_of, is_among, packets, pod_network_of
from tests.schemas import read_json
from tests.strategies import Call as Flags
from tests.strategies import calls
from tests.unit.conftest import Call
from tests.unit.fakes import settled

USUAL = ("-p", "15001", "-z", "15006", "-i", "*", "-b", "*", "-d", "15090,15021,15020")
Captured = pytest.CaptureFixture[str]

some = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


def pod_networks(config: Config) -> dict[Family, PodNetwork]:
    """What the flags ask for."""
    return {family: pod_network_of(build(config, family)) for family in Family}


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize(
    "more", [(), ("--redirect-dns", "--capture-all-dns"), ("-k", "", "-x", "")]
)
def test_the_usual_rules_keep_every_promise(mode: str, more: tuple[str, ...]) -> None:
    config = settled(*USUAL, "-m", mode, "--ipv6", *more)
    proof = prove(config, pod_networks(config))
    assert proof.classes > 50
    assert proof.counterexamples == ()


def test_unmatched_rules_are_reported_with_the_rule_that_takes_their_packets() -> None:
    config = settled(*USUAL)
    found = prove(config, pod_networks(config)).unreached
    places = [(each.table, each.chain, each.number) for each in found]
    # Of the gid's three rules two: what they are for has left by the uid's. And the loopback's.
    assert places == [("nat", "ISTIO_OUTPUT", number) for number in (5, 6, 8)]
    assert {each.by.why for each in found if each.by} == {
        "the application (not uid 1337) connects to itself over the loopback interface"
    }


def test_an_unreferenced_chain_is_reported() -> None:
    config = settled("-b", "*")
    (redirect,) = (
        each
        for each in prove(config, pod_networks(config)).unreached
        if each.chain == "ISTIO_REDIRECT"
    )
    assert redirect.taken is None


@some
@given(calls())
def test_every_promise_holds_except_for_known_weaknesses(flags: Flags) -> None:
    config = config_of(flags)
    for each in prove(config, pod_networks(config)).counterexamples:
        assert each.weakness, each


@pytest.mark.parametrize(
    ("flags", "weakness"),
    [
        (("--ruleset", "1.0", "-i", "*"), "the 1.0 rules capture all traffic from the pod"),
        (("--ruleset", "1.0", "-i", "*"), "the 1.0 rules reject every new IPv6 connection"),
        (("--ruleset", "1.0", "-b", "*", "-m", "TPROXY"), "sends with the TPROXY mark back to it"),
        (("--redirect-dns", "-i", "*"), "TCP to port 53 of the pod itself"),
        (("-k", "tap0", "-i", "*", "-x", "10.0.0.0/8"), "for traffic from a -k interface only -i"),
        (("-k", "tap0", "-b", "*", "-m", "TPROXY"), "traffic from a -k interface is treated as"),
    ],
)
def test_known_weaknesses_exist(flags: tuple[str, ...], weakness: str) -> None:
    config = config_of(Flags(flags))
    known = (each.weakness for each in prove(config, pod_networks(config)).counterexamples)
    assert any(text and weakness in text for text in known)


# Packets at random against the proof: it may not have missed one.


@settings(some, max_examples=40)
@given(st.data())
def test_no_packet_breaks_a_promise_that_was_shown_to_hold(data: st.DataObject) -> None:
    config = config_of(data.draw(calls()))
    family = data.draw(st.sampled_from([*Family]))
    pod_network = pod_networks(config)[family]
    broken = prove(config, {family: pod_network}).counterexamples
    for _ in range(40):
        journey, packet = data.draw(packets(config, family))
        kept = promised(config, journey, packet).is_kept(
            Sample(journey, packet).walk(pod_network).verdict
        )
        assert kept != is_among(journey, packet, broken)


# Damage: a rule lost, moved, negated or with another number. tests/mutation has random flags, and
# tests/kernel has it confirmed by the kernel.


@pytest.mark.parametrize(
    "flags",
    [
        USUAL,
        ("-b", "80", "-m", "TPROXY"),
        (*USUAL, "-x", "10.0.0.0/8", "-o", "25", "-q", "6379", "-c", "eth1"),
        (*USUAL, "--redirect-dns", "--capture-all-dns"),
        ("-i", "10.0.0.0/8,127.0.0.1", "-b", "80,443"),
    ],
    ids=" ".join,
)
def test_every_damage_that_breaks_a_promise_yields_a_counterexample(
    flags: tuple[str, ...],
) -> None:
    config = settled(*flags)
    whole = {Family.V4: pod_networks(config)[Family.V4]}
    assert prove(config, whole).counterexamples == ()
    found = 0
    for ruleset in [*damaged(build(config, Family.V4))][::3]:
        less = {Family.V4: pod_network_of(ruleset)}
        _, differences = compare(whole, less)
        first = [each for each in differences if each.sample.packet.state == "NEW"]
        # Of what the proxy sends to its own pod, the promise leaves two ways open.
        certain = [each for each in first if len(ends_of(config, each.sample)) == 1]
        counterexamples = prove(config, less).counterexamples
        assert bool(certain) <= bool(counterexamples), certain[0]
        found += bool(counterexamples)
    assert found > 5


def ends_of(config: Config, sample: Sample) -> frozenset[int | None]:
    """Where a packet may end; nothing if there is no promise."""
    clause = promised(config, sample.journey, sample.packet)
    return clause.ends if clause.promise else frozenset()


def test_a_foreign_rule_by_which_packets_skip_ours_is_found() -> None:
    config = settled(*USUAL)
    ruleset = build(config, Family.V4)
    passes = Rule((DestinationPort("tcp", 8443),), ACCEPT)
    drops = Rule((DestinationPort("tcp", 9999),), DROP)

    def with_first(rule: Rule) -> dict[Family, PodNetwork]:
        tables = {table.name: table for table in ruleset.tables}
        chains = tuple(
            replace(chain, rules=(rule, *chain.rules)) if chain.name == "OUTPUT" else chain
            for chain in tables["nat"].chains
        )
        tables["nat"] = Table("nat", chains)
        return {Family.V4: PodNetwork(tables, frozenset())}

    skipped = [e for e in prove(config, with_first(passes)).counterexamples if e.promise is SKIPPED]
    assert {each.skipped_by and each.skipped_by.rule for each in skipped} == {passes}
    assert {e.sample.packet.destination_port for e in skipped} == {8443}
    assert all(e.sample.packet.direction is Direction.OUT for e in skipped)
    # What is dropped gets past nobody; that it does not arrive is another promise's matter.
    dropped = prove(config, with_first(drops)).counterexamples
    assert dropped and not any(e.promise is SKIPPED for e in dropped)


def test_a_rule_that_asks_what_is_not_known_may_match() -> None:
    config = settled(*USUAL)
    ruleset = build(config, Family.V4)
    odd = Rule((UnknownMatch("set", (Option("match-set", "x dst"),)),), ACCEPT)
    tables = {table.name: table for table in ruleset.tables}
    chains = (Chain("OUTPUT", (odd,)), *(c for c in tables["nat"].chains if c.name != "OUTPUT"))
    output = tables["nat"].chain("OUTPUT")
    assert output
    chains = (Chain("OUTPUT", (odd, *output.rules)), *chains[1:])
    tables["nat"] = Table("nat", chains)
    live = {Family.V4: PodNetwork(tables, frozenset())}
    found = prove(config, live).counterexamples
    assert {each.promise for each in found} == {CAPTURED, SKIPPED}
    assert all(each.sample.assumed == {("OUTPUT", "nat", "OUTPUT", 1)} for each in found)
    _, differences = compare({Family.V4: pod_network_of(ruleset)}, live)
    assert {len(each.theirs) for each in differences} == {2}


# The command.


def test_the_usual_flags_are_proved_at_the_prompt(call: Call, capsys: Captured) -> None:
    assert call("prove", *USUAL) == 0
    out = capsys.readouterr().out
    assert out.startswith("Every promise holds for all packets (")
    assert "IPv4 nat ISTIO_OUTPUT 5: " in out


def test_a_counterexample_is_a_call_of_explain_that_says_the_same(
    call: Call, capsys: Captured
) -> None:
    assert call("prove", "--ruleset", "1.0", "-i", "*", "-z", "15006", "-O", "json") == 3
    found = read_json("prove", capsys.readouterr().out)
    assert not found["holds"]
    for each in found["counterexamples"]:
        assert each["known_weakness"]
        program, *words = shlex.split(each["explain"])
        assert program == "proxy-init"
        assert call(*words, "-O", "json") == 0
        explained = read_json("explain", capsys.readouterr().out)
        assert {key: explained[key] for key in ("verdict", "by", "port", "sentence")} == {
            key: each[key] for key in ("verdict", "by", "port", "sentence")
        }


def test_two_sets_of_flags_are_compared(call: Call, capsys: Captured) -> None:
    other = "-p 15001 -z 15006 -i * -b * -d 15090,15021,15020 -x 10.0.0.0/8"
    assert call("prove", *USUAL, "--against", other) == 3
    out = capsys.readouterr().out
    assert "- IPv4 TCP to 10.0.0.0/8, any port, from anyone but uid 1337 or gid 1337\n" in out
    unwrapped = " ".join(out.split())
    assert "--against: Direct: TCP to 10.0.0.1:80 from uid 1000, gid 1000 is not cap" in unwrapped
    assert out.count("These rules: ") == 1
    assert call("prove", *USUAL, "--against", shlex.join(("istio-iptables", *USUAL))) == 0
    assert capsys.readouterr().out.startswith("These rules and --against agree on all packets (")
    assert call("prove", *USUAL, "--against", "-i *", "-O", "json") == 3
    found = read_json("prove", capsys.readouterr().out)
    assert not found["alike"]
    assert {(each["these"]["port"], each["those"]["port"]) for each in found["differences"]} == {
        (15006, None),  # from outside: nothing is captured without -b
        (15006, 15001),  # the proxy calls its own pod, and -z is not given
    }


def test_rules_of_a_file_are_compared_and_proved(
    call: Call, capsys: Captured, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.rules", tmp_path / "new.rules"
    for path, flags in ((old, ("-m", "TPROXY")), (new, ("-m", "TPROXY", "-d", "15090"))):
        assert call(*USUAL, *flags, "--dry-run") == 0
        path.write_text(capsys.readouterr().out)
    assert call("prove", "--saved", str(new), "--against", f"--saved {old}", "-O", "json") == 3
    differences = read_json("prove", capsys.readouterr().out)["differences"]
    assert {each["direction"] for d in differences for each in d["sets"]} == {"in", "out"}
    assert all(each["ports"] == ["15020-15021"] for d in differences for each in d["sets"])
    assert call("prove", "--saved", str(old), "--against", f"--saved {old}") == 0
    assert call("prove", "--saved", str(old), *USUAL, "-m", "TPROXY") == 0
    assert call("prove", "--saved", str(old), *USUAL, "--against", "-b *") == 3
    capsys.readouterr()
    # With rules of a file, too, a counterexample is a call.
    assert call("prove", "--saved", str(new), *USUAL, "-m", "TPROXY", "-O", "json") == 3
    for each in read_json("prove", capsys.readouterr().out)["counterexamples"]:
        assert call(*shlex.split(each["explain"])[1:], "-O", "json") == 0
        assert read_json("explain", capsys.readouterr().out)["port"] == each["port"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--comments", "-c", "eth1+", "-k", "tap0", "-u", "7,8"),
        ("-m", "TPROXY", "-x", ",".join(f"10.{n}.0.0/16" for n in range(40))),
        ("-i", "", "-b", ""),
        ("--ruleset", "1.0"),
    ],
)
def test_dry_runs_of_both_backends_are_compared(
    call: Call, capsys: Captured, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """The kinds of text may differ; nothing of ours counts as foreign, whatever the backend."""
    words = (*USUAL, "--ipv6", *flags) if "1.0" not in flags else ("-i", "*", "-b", "*", *flags)
    paths = [tmp_path / name for name in ("legacy", "nft")]
    for path in paths:
        assert call(*words, "--dry-run", "--backend", path.name) == 0
        path.write_text(capsys.readouterr().out)
    legacy, nft = (("--saved", str(path)) for path in paths)
    for side, other in ((nft, legacy), (legacy, nft), (nft, words), (words, nft)):
        assert call("prove", *side, "--against", shlex.join(other)) == 0
        assert "(IPv4 and IPv6, " in capsys.readouterr().out
    for side in (nft, legacy):
        call("prove", *side, *words)
        assert "bypasses our rules" not in capsys.readouterr().out


def test_of_one_family_in_a_file_only_that_is_compared(
    call: Call, capsys: Captured, tmp_path: Path
) -> None:
    path = tmp_path / "ipv4.rules"
    assert call(*USUAL, "--ipv6", "--dry-run", "-4") == 0
    path.write_text(capsys.readouterr().out)
    assert call("prove", *USUAL, "--against", f"--saved {path}") == 0
    assert "agree on all packets (IPv4, " in capsys.readouterr().out


LOOP = "chain A { goto A; }; chain o { type nat hook output priority 0; jump A; }"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no table"),
        (f"table ip x {{\n{LOOP}\n}}\n", "the chains of the table ip x form a loop: A -> A"),
        ("table ip x {\n\tset y {\n}\n", "line 1: the block of 'table ip x' does not end"),
        (
            "flush ruleset\ntable ip nat {\n}\n",
            "line 1: neither of iptables-save nor of nft: 'flush",
        ),
        ("*nat\n:OUTPUT ACCEPT [0:0]\n", "the table nat does not end with COMMIT"),
        ("*nat\nCOMMIT\n*nat\nCOMMIT\n", "line 4: the table nat of IPv4 is repeated"),
        ("*security\nCOMMIT\n", "the table security is not one of raw, mangle, nat, filter"),
        ("*nat\n-A A -j ACCEPT\nCOMMIT\n", "line 2: the chain 'A' is not declared: '-A A -j ACC"),
        ("*nat\n:A - [0:0]\n-A A -p tcp -j\nCOMMIT\n", "line 3: not a rule of iptables-save: '-A"),
        ("*nat\n:A - [0:0]\n-A A -p tcp --dport 80\nCOMMIT\n", "line 3: not a rule of iptables-sa"),
        ("*nat\n:A - [0:0]\n-A A -j ISTIO_X\nCOMMIT\n", "the chain 'ISTIO_X' of the table nat is"),
        ("*nat\n:A - [0:0]\n*nat\nCOMMIT\n", "line 3: not a line of iptables-save: '*nat'"),
        ("*nat\n:A - [0:0]\n-A A -g A\nCOMMIT\n", "form a loop: A -> A"),
        ("*nat\niptables -t nat\nCOMMIT\n", "line 2: not a line of iptables-save"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    call: Call, capsys: Captured, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "saved"
    path.write_text(text)
    assert call("prove", "--saved", str(path)) == 2
    assert said in capsys.readouterr().err


def test_a_reviewer_reads_what_is_shown_and_what_is_not(call: Call, capsys: Captured) -> None:
    assert call("prove", "--list") == 0
    out = capsys.readouterr().out
    assert "1. Traffic from the proxy is not redirected back to it.\n" in out
    assert "\nNot proven:\n- Packets other than TCP and UDP" in out
    assert len(out.splitlines()) < 45
    assert call("prove", "--list", "-O", "json") == 0
    listed = read_json("prove", capsys.readouterr().out)
    assert [each["name"] for each in listed["promises"]] == [each.name for each in PROMISES]


@pytest.mark.parametrize("how", ["never", "always"])
def test_ten_thousand_networks_are_proven(
    call: Call, capsys: Captured, tmp_path: Path, how: str
) -> None:
    """As a list and as a tree; tests/bench says how long it takes."""
    listed = tmp_path / "cidrs"
    listed.write_text(
        "\n".join(f"{10 + n // 2**15}.{n >> 7 & 255}.{n * 2 & 255}.0/24" for n in range(10_000))
    )
    assert call("prove", *USUAL, "-x", f"@{listed}", "--cidr-tree", how) == 0
    assert capsys.readouterr().out.startswith("Every promise holds for all packets")


def test_an_empty_value_is_compared_or_refused_but_never_ignored(
    call: Call, capsys: Captured
) -> None:
    """A script may have lost the arguments or the name of the file."""
    assert call("prove", *USUAL, "--against", "") == 3
    assert call("prove", "--against=") == 0
    assert "agree on all packets" in capsys.readouterr().out
    for words in (("--saved", "", *USUAL), (*USUAL, "--against", "--saved ''")):
        assert call("prove", *words) == 2
        assert "--saved: got '', cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("-b 99999", "--against: -b: got '99999', expected a port from 1 to 65535"),
        ("-b '80", '--against: got "-b \'80", expected flags, quoted as in a shell: No closing'),
        ("--uid 5", "--against: command line: got '--uid', expected a flag of proxy-init"),
        ("--saved /nowhere", "--against: --saved: got '/nowhere', cannot be read: No such file"),
    ],
)
def test_errors_in_the_other_flags_are_reported(
    call: Call, capsys: Captured, against: str, said: str
) -> None:
    assert call("prove", *USUAL, "--against", against) == 2
    assert said in capsys.readouterr().err
