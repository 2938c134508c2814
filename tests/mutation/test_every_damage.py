"""Every rule of random flags is damaged in every way: `prove` finds what this changes.

tests/mutation/run [COUNT] does so for as many calls as it is told to.
"""

import os

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy_init.analysis.promises import promised
from proxy_init.analysis.prove import Sample, compare, prove
from proxy_init.rules.model import Family
from proxy_init.rulesets import build
from tests.damaged_rules import damaged
from tests.random_packets import config_of, is_among, packets, pod_network_of
from tests.strategies import calls

COUNT = int(os.environ.get("MUTATION_CALLS", "5"))
PACKETS = 60
"""How many random packets look for a change that was not found."""


@settings(
    deadline=None,
    max_examples=COUNT,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take hours
)
@given(st.data())
def test_every_damage_that_changes_what_happens_to_a_packet_is_found(data: st.DataObject) -> None:
    config = config_of(data.draw(calls()))
    family = data.draw(st.sampled_from([*Family]))
    ruleset = build(config, family)
    whole = {family: pod_network_of(ruleset)}
    random_ones = [Sample(*data.draw(packets(config, family))) for _ in range(PACKETS)]
    results = [sample.walk(whole[family]).verdict for sample in random_ones]
    for changed in damaged(ruleset):
        rules = {family: pod_network_of(changed)}
        _, differences = compare(whole, rules)
        broken = prove(config, rules).counterexamples
        for each in differences:
            journey, packet = each.sample.journey, each.sample.packet
            before, after = (each.sample.walk(of[family]).verdict for of in (whole, rules))
            # An established connection has the result of its first packet.
            assert before != after or packet.state == "ESTABLISHED"
            clause = promised(config, journey, packet)
            if packet.state == "NEW" and clause.is_kept(before) and not clause.is_kept(after):
                assert is_among(journey, packet, broken)
        # And nothing else has changed.
        for sample, before in zip(random_ones, results, strict=True):
            is_changed = sample.walk(rules[family]).verdict != before
            assert is_changed == is_among(sample.journey, sample.packet, differences)
