"""The benchmark compares like with like."""

import json
from pathlib import Path

import pytest

from pods import namespace
from tests.bench import figures
from tests.bench.__main__ import timer
from tests.bench.cases import EMPTY, OLD, PYTHON, PYTHON_OF_IMAGE, TPROXY, USUAL, Case, script
from tests.bench.timer import Cost, Job
from tests.running import BOTH, fresh_namespace, run_in, saved, with_rules

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("flags", [USUAL, TPROXY], ids=["REDIRECT", "TPROXY"])
def test_the_stand_in_for_the_script_of_1_0_makes_the_rules_that_we_make(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with fresh_namespace() as ours, fresh_namespace() as theirs:
        assert run_in(ours, *flags, *OLD).status == 0
        path = tmp_path / "script"
        path.write_text(script(run_in(theirs, *flags, *OLD, "-n").stdout))
        namespace.run(theirs, ["bash", str(path)])
        for family in BOTH:
            assert with_rules(saved(theirs, family)) == with_rules(saved(ours, family))
        routes = "ip rule; ip route show table 133"
        assert namespace.run(theirs, ["sh", "-c", routes]).stdout == (
            namespace.run(ours, ["sh", "-c", routes]).stdout
        )


def test_commands_are_timed_each_in_a_namespace_of_its_own() -> None:
    prepared = [["ip", "link", "add", "eth0", "type", "veth"]]
    looks = ["sh", "-c", "ip link show eth0 && sleep 0.2"]
    with timer() as (jobs, answers):
        costs = []
        for before in (prepared, [], prepared):
            print(json.dumps(Job(before=before, command=looks)), file=jobs, flush=True)
            costs.append(json.loads(answers.readline()))
    assert [cost["status"] for cost in costs] == [0, 1, 0]
    assert costs[0]["milliseconds"] >= 200
    assert all(cost["peak_mib"] > 0 and cost["cpu_milliseconds"] >= 0 for cost in costs)


def test_figures_take_the_place_of_others_in_the_page() -> None:
    page = f"before\n{figures.BEGIN}old\n{figures.END}after\n"
    once = figures.replace_figures(page, figures.table(("", "ms"), [("REDIRECT", "19.1")]))
    assert once == (
        f"before\n{figures.BEGIN}\n|  | ms |\n| --- | ---: |\n| REDIRECT | 19.1 |\n\n"
        f"{figures.END}after\n"
    )
    assert figures.replace_figures(once, "new").count(figures.BEGIN) == 1
    figures.replace_figures((ROOT / "docs/performance.md").read_text(), "")
    with pytest.raises(ValueError, match="no place"):
        figures.replace_figures("a page", "")


def cost(milliseconds: float) -> Cost:
    return Cost(milliseconds=milliseconds, cpu_milliseconds=1, peak_mib=1, faults=1, status=0)


def test_a_case_is_compared_with_an_empty_interpreter_of_its_own() -> None:
    costs = {
        Case(EMPTY, PYTHON, ()): [cost(5), cost(10), cost(20)],
        Case("REDIRECT", "proxy-init, nft", ()): [cost(25)],
        Case(EMPTY, PYTHON_OF_IMAGE, ()): [cost(20)],
        Case("REDIRECT", "in the image", ()): [cost(30)],
        Case("REDIRECT", "iptables-restore", ()): [cost(2)],
    }
    ratios = [shown[0] for _, shown in figures.rows(costs)]
    assert ratios == ["1.00", "2.50", "1.00", "1.50", ""]
