"""The pictures: every rule is in them, in words, and every format is well formed."""

import html
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy_init.analysis.kernel_rules import KernelTable, TableKind
from proxy_init.analysis.packet_walk import Outcome, Packet, Walk, sentence, walk
from proxy_init.cli.terminal import on_screen
from proxy_init.graph.dot import dot_text, svg_text
from proxy_init.graph.draw import drawing_of, wanted_picture
from proxy_init.graph.drawing import Drawing, Emphasis, Fate, Picture, Row
from proxy_init.graph.looks import look
from proxy_init.graph.mermaid import mermaid_text
from proxy_init.graph.met import Met
from proxy_init.graph.subject import of_kernel, of_ruleset
from proxy_init.graph.tree import tree
from proxy_init.rules.counts import Count
from proxy_init.rules.matches import Protocol
from proxy_init.rules.model import Chain, Family, PolicyRoute, Rule, Ruleset, Table
from proxy_init.rules.networks import read_address
from proxy_init.rules.targets import RETURN, Jump
from proxy_init.rulesets import build
from tests.random_packets import config_of, packets, pod_network_of
from tests.strategies import Call as RandomCall
from tests.strategies import calls

from .conftest import Call
from .fakes import bounded, settled
from .test_explain import sent

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]
# fmt: off
USUAL = (
    "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT",
    "-i", "*", "-b", "*", "-d", "15090,15021,15020", "--no-ipv6",
)
# fmt: on
FORMATS = ("tree", "mermaid", "dot", "svg")


def picture(*flags: str, **environ: str) -> Picture:
    config = settled(*flags, **environ)
    return wanted_picture([build(config, family) for family in Family])


def pictures(*flags: str, **environ: str) -> tuple[Drawing, ...]:
    return picture(*flags, **environ).drawings


def rules(*flags: str, **environ: str) -> dict[Family, tuple[Rule, ...]]:
    config = settled(*flags, **environ)
    return {family: build(config, family).rules for family in Family}


def rows(drawn: Sequence[Drawing]) -> list[Row]:
    return [row for drawing in drawn for box in drawing.boxes for row in box.rows]


def squeezed(text: str) -> str:
    """Without what wrapping and drawing put between the letters."""
    return re.sub(r"[\s│├└─]", "", text)


def labels(source: str) -> str:
    """The words of a dot text's labels."""
    return html.unescape(re.sub(r"<[^<>]*>", "", source))


def decoded(mermaid: str) -> str:
    return re.sub(r"#(\d+);", lambda code: chr(int(code[1])), mermaid)


# What is drawn.


@bounded
@given(calls())
def test_every_rule_is_a_row_with_its_reason(call: RandomCall) -> None:
    wanted = rules(*call.flags, **call.environ)
    drawn = pictures(*call.flags, **call.environ)
    titles = [drawing.title for drawing in drawn]
    for family, held in wanted.items():
        whys = sorted(rule.why for rule in held)
        if not held:
            assert not any(family.title in title for title in titles)
            continue
        [drawing] = [drawing for drawing in drawn if family.title in drawing.title]
        assert sorted(row.why for row in rows([drawing])) == whys


@bounded
@given(calls())
def test_every_arrow_leads_to_something_and_every_key_is_one_thing(call: RandomCall) -> None:
    for drawing in pictures(*call.flags, **call.environ):
        keys = [box.key for box in drawing.boxes] + [place.key for place in drawing.places]
        assert len(keys) == len(set(keys))
        led_to = {row.to for row in rows([drawing]) if row.to}
        assert led_to <= set(keys)
        assert {place.key for place in drawing.places} <= led_to


@settings(bounded, max_examples=100)
@given(calls())
@example(RandomCall(("-i", "*", "-c", "#a;<b>&*`|]%%{", "--ipv6")))
@example(RandomCall(("-i", "*", "-c", "a\x1bb\x85c\u2028", "--ipv6")))
def test_every_row_is_in_the_text_of_every_format(call: RandomCall) -> None:
    drawn = picture(*call.flags, **call.environ)
    texts = {
        "tree": squeezed(on_screen(tree(drawn))),
        "mermaid": squeezed(decoded(mermaid_text(drawn))),
        "dot": squeezed(labels(dot_text(drawn))),
    }
    for name, text in texts.items():
        for row in rows(drawn.drawings):
            for words in (row.match, row.outcome, row.why):
                assert squeezed(words) in text, name


@pytest.mark.parametrize(
    ("flags", "titles"),
    [
        pytest.param((), ["IPv4"], id="IPv6 off"),
        pytest.param(("--ipv6",), ["IPv4 and IPv6"], id="alike"),
        pytest.param(("--ipv6", "-m", "TPROXY"), ["IPv4 and IPv6"], id="alike, TPROXY"),
        pytest.param(("--ipv6", "-x", "10.0.0.0/8"), ["IPv4", "IPv6"], id="one CIDR differs"),
        pytest.param(("--ruleset", "1.0"), ["IPv4", "IPv6"], id="1.0"),
        pytest.param(("-m", "NONE"), [], id="nothing"),
    ],
)
def test_families_with_the_same_rules_are_drawn_once(
    flags: tuple[str, ...], titles: list[str]
) -> None:
    drawn = pictures("-i", "*", "-b", "*", "--no-ipv6", *flags)
    assert [drawing.title for drawing in drawn] == titles
    if titles == ["IPv4 and IPv6"]:
        assert "IPv6 has the same rules" in drawn[0].notes[0]


def test_hooks_are_frames_with_tables_in_the_order_of_the_kernel() -> None:
    flags = ("--redirect-dns", "--capture-all-dns", "--drop-invalid", "-m", "TPROXY", "-c", "eth1")
    [drawing] = pictures("-i", "*", "-b", "*", *flags)
    assert {frame.name: [box.table for box in frame.entries] for frame in drawing.frames} == {
        "PREROUTING": ["raw", "mangle", "nat"],
        "OUTPUT": ["raw", "mangle", "nat"],
    }
    assert [box.key for box in drawing.unused] == ["nat_ISTIO_INBOUND"]


def test_rows_show_whether_packets_are_captured_pass_or_are_dropped() -> None:
    [drawing] = pictures(*USUAL, "--drop-invalid", "--redirect-dns", "--capture-all-dns")
    fates = {(box.key, row.number): row.fate for box in drawing.boxes for row in box.rows}
    assert fates["nat_ISTIO_INBOUND", 2] is Fate.PASSES  # a -d port
    assert fates["nat_ISTIO_INBOUND", 5] is Fate.CAPTURED  # jumps to what captures all TCP
    assert fates["nat_ISTIO_OUTPUT_DNS", 1] is Fate.CAPTURED
    assert fates["nat_ISTIO_OUTPUT", 8] is Fate.GOES_ON  # of what goes there, only DNS is captured
    assert fates["mangle_PREROUTING", 1] is Fate.REFUSED
    assert [place.label for place in drawing.places] == [
        "the proxy on port 15006",
        "the DNS agent on port 15053",
        "the proxy on port 15001",
    ]


def test_marked_packets_lead_to_the_policy_route_of_mode_tproxy() -> None:
    [drawing] = pictures("-m", "TPROXY", "-b", "*", "-z", "15006")
    captured = {
        (box.name, row.outcome, row.to)
        for box in drawing.boxes
        for row in box.rows
        if row.fate is Fate.CAPTURED and box.table == "mangle"
    }
    assert captured == {
        ("ISTIO_INBOUND", "→ ISTIO_DIVERT", "mangle_ISTIO_DIVERT"),
        ("ISTIO_INBOUND", "→ ISTIO_TPROXY", "mangle_ISTIO_TPROXY"),
        ("ISTIO_DIVERT", "marked 0x539", "policy_route"),
        ("ISTIO_DIVERT", "accepted", None),
        ("ISTIO_TPROXY", "captured (TPROXY) → port 15006", "proxy_15006"),
        ("OUTPUT", "mark copied from the connection", "policy_route"),
    }


def test_one_branch_of_a_cidr_tree_is_drawn() -> None:
    cidrs = ",".join(f"10.{n // 128}.{n % 128 * 2}.0/24" for n in range(10_000))
    [drawing] = pictures("-i", "*", "-x", cidrs)
    rows = {box.name: box.rows for box in drawing.boxes}
    assert {name for name in rows if "EXCLUDED" in name} == {
        "ISTIO_EXCLUDED_1",
        "ISTIO_EXCLUDED_11",
        "ISTIO_NOT_EXCLUDED",
    }
    drawn = [row for row in rows["ISTIO_OUTPUT"] if "EXCLUDED" in row.outcome or not row.why]
    assert [(row.match, row.outcome) for row in drawn] == [
        ("to 10.0.0.0/13", "continues in ISTIO_EXCLUDED_1"),
        ("and 9 more like these", "each continues in its own chain"),
        ("any packet", "continues in ISTIO_NOT_EXCLUDED"),
    ]
    assert [box.name for box in drawing.unused] == ["ISTIO_INBOUND"]  # there is no -b


def test_a_few_of_many_similar_rules_are_drawn() -> None:
    cidrs = ",".join(f"10.{n // 256}.{n % 256}.0/24" for n in range(10_000))
    [drawing] = pictures("-i", "*", "-x", cidrs, "--cidr-tree", "never")
    [box] = [box for box in drawing.boxes if box.name == "ISTIO_OUTPUT"]
    assert len(box.rows) < 30
    assert [row.match for row in box.rows if not row.why] == ["and 9,991 more like these"]
    assert (box.rows[-1].number or 0) > 10_000
    drawn = Picture("", (drawing,))
    for text in (dot_text(drawn), mermaid_text(drawn), on_screen(tree(drawn))):
        assert "and 9,991 more like these" in text


# Mermaid.

_LABEL = r'"[A-Za-z0-9 .,:()/\-+!→…=_#;]*(<br>[A-Za-z0-9 .,:()/\-+!→…=_#;]*)*"'
_CLASS = (
    ":::((captured|passes|refused|goes_on)(_on_the_way|_not_wanted)?"
    "|never_matched|not_reached|missing)"
)
_MERMAID = [
    r"flowchart TB",
    rf" *subgraph (?P<subgraph>\w+)\[{_LABEL}\]",
    r" *(?P<end>end)",
    rf" *(?P<node>\w+)\[{_LABEL}\]({_CLASS})?",
    rf" *(?P<place>\w+)\(\[{_LABEL}\]\){_CLASS}",
    r" *(?P<tail>\w+) (---|-->|==>|== \d+ ==>|-\. (then|missing) \.->) (?P<head>\w+)",
    r" *classDef \w+ [a-z:,#0-9 -]+",
]


def assert_well_formed(text: str) -> None:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        matched = [match for form in _MERMAID if (match := re.fullmatch(form, line))]
        assert len(matched) == 1, line
        for name, text in matched[0].groupdict().items():
            found.setdefault(name, []).append(text)
    nodes = found.get("node", []) + found.get("place", [])
    assert len(found.get("subgraph", [])) == len(found.get("end", []))
    names = nodes + found.get("subgraph", [])
    assert len(names) == len(set(names))
    assert {*found.get("tail", []), *found.get("head", [])} <= set(nodes)


def test_no_mermaid_label_reads_as_a_list_or_holds_markup() -> None:
    # Newer versions show "Unsupported markdown: list" for a label that begins like one.
    text = mermaid_text(picture(*USUAL, "-c", "<b>*_x_*`"))
    assert not re.search(r'"(\d+\.|[-*+] )', text)
    assert "#60;b#62;#42;_x_#42;#96;" in text


@bounded
@given(calls())
def test_mermaid_is_well_formed(call: RandomCall) -> None:
    assert_well_formed(mermaid_text(picture(*call.flags, **call.environ)))


# Graphviz.


@settings(bounded, max_examples=15)
@given(calls())
@example(RandomCall(("-i", "*", "-c", "#a;<b>&*`|]%%{", "--ipv6")))
@example(RandomCall(("-m", "NONE")))
def test_dot_is_drawn_without_complaint(call: RandomCall) -> None:
    drawn = picture(*call.flags, **call.environ)
    result = subprocess.run(
        ["dot", "-Tsvg"], input=dot_text(drawn), capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    shown = squeezed("".join(ElementTree.fromstring(result.stdout).itertext()))
    for row in rows(drawn.drawings):
        for words in (row.match, row.outcome, row.why):
            assert squeezed(words) in shown


def test_svg_is_what_graphviz_makes_of_the_dot_text() -> None:
    drawn = picture(*USUAL)
    made = subprocess.run(
        ["dot", "-Tsvg"], input=dot_text(drawn), capture_output=True, text=True, check=True
    )
    assert svg_text(drawn) == made.stdout


def test_svg_without_graphviz_says_what_to_do(
    call: Call, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call("graph", *USUAL, "--format", "svg") == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "apt-get install graphviz" in err.splitlines()[-1]
    assert call("graph", *USUAL, "--format", "dot") == 0


@pytest.mark.parametrize(
    ("picture", "more"),
    [
        ("usual.dot", ()),
        ("usual.svg", ()),
        ("tproxy.svg", ("-m", "TPROXY")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_pictures_in_the_docs_are_those_of_the_rules(
    picture: str, more: tuple[str, ...], call: Call, capsys: Captured
) -> None:
    """Made by `proxy-init graph` with USUAL, as docs/rules.md says; the last with `-m TPROXY`."""
    kind = picture.rpartition(".")[2]
    assert call("graph", *USUAL, *more, "--format", kind) == 0
    made, kept = capsys.readouterr().out, (ROOT / "docs" / picture).read_text()
    if kind == "svg":
        # Where things lie depends on the version of Graphviz, and on the fonts.
        made, kept = (
            " ".join(sorted("".join(text) for text in ElementTree.fromstring(svg).itertext()))
            for svg in (made, kept)
        )
    assert made == kept


# A packet's way.


def trip_picture(family: Family, packet: Packet, ruleset: Ruleset) -> tuple[Walk, Picture]:
    result = walk(pod_network_of(ruleset), packet)
    drawing = drawing_of(of_ruleset(ruleset), Met(packet, result))
    return result, Picture(sentence(packet, result), (drawing,))


@settings(bounded, max_examples=100)
@given(st.data(), calls(), st.sampled_from(list(Family)))
def test_the_way_of_a_packet_is_that_of_the_walk(
    data: st.DataObject, call: RandomCall, family: Family
) -> None:
    config = config_of(call)
    _, packet = data.draw(packets(config, family))
    result, drawn = trip_picture(family, packet, build(config, family))
    [drawing] = drawn.drawings
    assert drawing.way
    matched = [(v.table, v.chain, v.number) for v in result.path if v.matched]
    boxes = {box.key: box for box in drawing.boxes}
    numbers = {(box.key, row.key): row.number for box in drawing.boxes for row in box.rows}
    stops = [
        (boxes[key].table, boxes[key].name, numbers[key, row]) for key, row in drawing.way.stops
    ]
    assert stops == matched
    fates = {
        Outcome.CAPTURED: Fate.CAPTURED,
        Outcome.DIRECT: Fate.PASSES,
        Outcome.DROPPED: Fate.REFUSED,
    }
    assert drawing.way.end.fate is fates[result.outcome]
    assert str(result.port or "") in drawing.way.end.label
    # In words too, in every format; and what was not reached is in the background.
    reached = {(v.table, v.chain, v.number) for v in result.path}
    for box in drawing.boxes:
        for row in box.rows:
            if (box.table, box.name, row.number) in reached:
                assert row.remarks
                assert row.emphasis is not Emphasis.NOT_REACHED
            elif "more like these" not in row.match:
                assert (row.remarks, row.emphasis) == ((), Emphasis.NOT_REACHED)
    mermaid = mermaid_text(drawn)
    assert_well_formed(mermaid)
    texts = (squeezed(decoded(mermaid)), squeezed(labels(dot_text(drawn))))
    for step in range(1, len(matched) + 1):
        assert f"=={step}==>" in texts[0]
    assert all(squeezed(remark) in texts[1] for row in drawing.rows for remark in row.remarks)
    assert all(squeezed(drawn.title) in text for text in (*texts, squeezed(on_screen(tree(drawn)))))


@settings(bounded, max_examples=10)
@given(st.data(), calls(), st.sampled_from(list(Family)))
def test_the_way_of_a_packet_is_drawn_by_dot_without_complaint(
    data: st.DataObject, call: RandomCall, family: Family
) -> None:
    config = config_of(call)
    _, packet = data.draw(packets(config, family))
    _, drawn = trip_picture(family, packet, build(config, family))
    made = subprocess.run(
        ["dot", "-Tsvg"], input=dot_text(drawn), capture_output=True, text=True, check=True
    )
    assert made.stderr == ""


def test_the_one_rule_of_many_that_a_packet_matches_is_drawn() -> None:
    cidrs = ",".join(f"10.{n // 128}.{n % 128 * 2}.0/24" for n in range(10_000))
    for tree_or_list in ("never", "always"):
        config = settled("-i", "*", "-x", cidrs, "--cidr-tree", tree_or_list)
        packet = sent(Family.V4, destination=read_address("10.19.136.7"))
        result, drawn = trip_picture(Family.V4, packet, build(config, Family.V4))
        assert result.outcome is Outcome.DIRECT
        [drawing] = drawn.drawings
        [decides] = [row for row in drawing.rows if "decides" in row.remarks]
        assert "10.19.136.0/24" in decides.match
        assert len(drawing.rows) < 200


@pytest.mark.parametrize("kind", FORMATS)
def test_explain_and_graph_draw_the_same_way(kind: str, call: Call, capsys: Captured) -> None:
    packet = ("--to", "10.1.2.3:443", "--pod-address", "192.0.2.2")
    drawn = []
    for command in ("explain", "graph"):
        assert call(command, *USUAL, "-x", "10.0.0.0/8", *packet, "--format", kind) == 0
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1]
    assert "not captured: goes to" in re.sub(r"\s+", " ", drawn[0]) or kind == "tree"


def test_saved_rules_are_drawn_too(call: Call, capsys: Captured, tmp_path: Path) -> None:
    assert call(*USUAL, "--dry-run", "-4") == 0
    (tmp_path / "saved").write_text(capsys.readouterr().out)
    saved = ("--saved", str(tmp_path / "saved"))
    assert call("graph", *USUAL, *saved) == 0
    assert "all other outbound traffic is captured" in capsys.readouterr().out
    assert call("graph", *USUAL, *saved, "--to", "198.51.100.7:80", "--format", "mermaid") == 0
    assert "step 3" in capsys.readouterr().out


def test_a_packet_needs_a_destination(call: Call, capsys: Captured) -> None:
    assert call("graph", *USUAL, "--uid", "0") == 2
    assert "--to: expected the destination of the packet" in capsys.readouterr().err


# The kernel's rules, with counts.


def kernel(*rules: Rule, counts: Sequence[int], kind: TableKind = TableKind.LEGACY) -> KernelTable:
    """The table nat with these rules in OUTPUT."""
    table = Table("nat", (Chain("OUTPUT", rules), Chain("ISTIO_OUTPUT", ())))
    counted = {"OUTPUT": tuple(Count(n, 60 * n) for n in counts), "ISTIO_OUTPUT": ()}
    return KernelTable(0, "nat", table, counted, kind)


JUMP = Rule((), Jump("ISTIO_OUTPUT"), "ours")
FOREIGN = Rule((Protocol("udp"),), RETURN)


def test_counts_and_differences_are_beside_the_rules() -> None:
    wanted = Ruleset(Family.V4, (Table("nat", (Chain("OUTPUT", (JUMP,)),)),))
    there = kernel(FOREIGN, JUMP, counts=(7, 0))
    [box] = drawing_of(of_kernel(wanted, [there], [])).boxes
    assert [(row.title, row.remarks, row.emphasis) for row in box.rows] == [
        ("1", ("another program's", "7 packets"), Emphasis.NONE),
        ("2", ("never matched",), Emphasis.NEVER_MATCHED),
    ]
    [box] = drawing_of(of_kernel(wanted, [kernel(FOREIGN, counts=(1,))], [])).boxes
    assert [(row.title, row.remarks, row.emphasis) for row in box.rows] == [
        ("-", ("missing",), Emphasis.MISSING),
        ("1", ("another program's", "1 packet"), Emphasis.NONE),
    ]
    [box] = drawing_of(of_kernel(Ruleset(Family.V4), [kernel(JUMP, counts=(1,))], [])).boxes
    assert [(row.remarks, row.emphasis) for row in box.rows] == [
        (("not wanted", "1 packet"), Emphasis.NOT_WANTED)
    ]


def test_a_table_that_is_not_there_is_missing_as_a_whole() -> None:
    ruleset = build(settled(*USUAL), Family.V4)
    drawing = drawing_of(of_kernel(ruleset, [], []))
    assert {row.emphasis for row in drawing.rows} == {Emphasis.MISSING}
    assert [row.why for row in drawing.rows] != []


def test_a_missing_policy_route_is_noted() -> None:
    ruleset = build(settled(*USUAL, "-m", "TPROXY"), Family.V4)
    [note] = drawing_of(of_kernel(ruleset, [], [])).notes
    assert note == (
        "the policy route is missing: packets marked 0x539 are not kept local by routing table 133"
    )
    [note] = drawing_of(of_kernel(Ruleset(Family.V4), [], [PolicyRoute(7, 8)])).notes
    assert note == "a policy route that these flags do not ask for: mark 0x7, routing table 8"


def test_no_look_is_told_by_colour_alone() -> None:
    for fate in Fate:
        looks = {each: look(fate, each) for each in Emphasis}
        without_colours = {(its.width, its.dashed, its.bold) for its in looks.values()}
        assert len(without_colours) >= 3
        assert looks[Emphasis.MISSING].dashed
        assert all(each.value for each in Emphasis if each is not Emphasis.NONE)


# The terminal.


@bounded
@given(calls())
def test_the_tree_fits_into_80_columns_and_is_plain(call: RandomCall) -> None:
    text = on_screen(tree(picture(*call.flags, **call.environ)))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(char.isprintable() or char == "\n" for char in text)


def test_the_tree_shows_a_chain_below_the_first_rule_that_leads_to_it() -> None:
    text = on_screen(tree(picture(*USUAL)))
    assert text.count("captured (REDIRECT) → port 15006") == 1
    assert text.count("→ ISTIO_IN_REDIRECT (see above)") == 2
    below = text[text.index("5. any TCP: → ISTIO_IN_REDIRECT") :].splitlines()[2]
    assert below.strip("│ ") == "└── 1. any TCP: captured (REDIRECT) → port 15006"


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["", "NO_COLOR"]
)
def test_colours_are_for_terminals_and_not_with_no_color(
    environ: dict[str, str], coloured: bool
) -> None:
    shown = on_a_terminal("graph", *USUAL, environ=environ)
    assert ("\x1b[" in shown) == coloured
    assert squeezed(re.sub(r"\x1b\[[0-9;]*m", "", shown)) == squeezed(
        on_screen(tree(picture(*USUAL)))
    )


def on_a_terminal(*args: str, environ: dict[str, str]) -> str:
    """What the program prints on a terminal."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "proxy_init", *args],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environ},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # the other end is closed: all is read
        pass
    os.close(ours)
    assert program.wait() == 0
    return shown.decode()


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_goes_to_stdout_and_nothing_else(name: str, call: Call, capsys: Captured) -> None:
    assert call("graph", *USUAL, "--format", name) == 0
    out, err = capsys.readouterr()
    assert "ISTIO_OUTPUT" in out
    assert "\x1b" not in out
    assert err == ""


def test_the_default_format_is_the_tree(call: Call, capsys: Captured) -> None:
    printed = []
    for flags in ((), ("--format", "tree"), ("--format=tree",), ("--format", "")):
        assert call("graph", *USUAL, *flags) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1
    assert printed[0].startswith("the rules for these flags\n")
