"""The benchmark compares like with like."""

import json
from pathlib import Path

import pytest

from pods import namespace
from tests.bench.__main__ import timer
from tests.bench.cases import OLD, TPROXY, USUAL, script
from tests.bench.timer import Job
from tests.running import BOTH, fresh_namespace, run_in, saved, with_rules


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
