"""What --dry-run prints is what the kernel holds afterwards, for any flags."""

import pytest
from hypothesis import example, given, settings

from proxy_init.rules.model import Family
from tests.running import (
    BOTH,
    both_backends,
    by_table,
    fresh_namespace,
    restored,
    run_in,
    saved,
    with_legacy_tables,
    with_rules,
)
from tests.strategies import IN_THE_KERNEL, Call, calls

pytestmark = both_backends

USUAL = ("-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "")
TODAY = (
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*"),
    *("-b", "*", "-d", "15090,15021,15020", "--log_output_level=default:info"),
)


@with_legacy_tables
@settings(IN_THE_KERNEL, max_examples=60)
@given(calls())
@example(Call(USUAL))
@example(Call((*USUAL, "--ipv6")))
@example(Call(TODAY))
@example(Call((*USUAL, "--ipv6", "-m", "TPROXY", "--redirect-dns", "--capture-all-dns")))
@example(Call((*USUAL, "--ruleset", "1.0")))
@example(Call((*USUAL, "--ipv6", "--comments", "-x", "10.0.0.0/8,fd00::/8", "-c", "eth1")))
@example(Call(("-b", "*", "-c", "eth0", "-k", "eth0", "-i", "::/0,::/0", "--ipv6")))
def test_dry_run_equals_what_the_kernel_holds_after_applying(call: Call) -> None:
    with fresh_namespace() as name:
        printed = {
            family: run_in(name, *call.flags, "-n", f"-{family.value}", environ=call.environ)
            for family in BOTH
        }
        applied = run_in(name, *call.flags, environ=call.environ)
        assert applied.status == 0, applied.stderr
        for family in BOTH:
            assert with_rules(saved(name, family)) == by_table(printed[family].stdout)
        again = run_in(name, *call.flags, environ=call.environ)
        assert (again.status, "result=unchanged" in again.stderr) == (0, True), again.stderr


@with_legacy_tables
@settings(IN_THE_KERNEL, max_examples=15)
@given(calls())
@pytest.mark.parametrize("family", BOTH, ids=lambda family: family.title)
def test_iptables_restore_accepts_the_dry_run_and_makes_the_same_of_it(
    family: Family, call: Call
) -> None:
    with fresh_namespace() as name:
        printed = run_in(name, *call.flags, "-n", f"-{family.value}", environ=call.environ).stdout
        result = restored(name, family, printed)
        assert result.returncode == 0, result.stderr
        assert with_rules(saved(name, family)) == by_table(printed)


@settings(IN_THE_KERNEL, max_examples=25)
@given(calls(), calls())
def test_other_flags_on_the_next_run_replace_all_rules_of_the_first(old: Call, new: Call) -> None:
    with fresh_namespace() as name, fresh_namespace() as fresh:
        run_in(name, *old.flags, environ=old.environ)
        result = run_in(name, *new.flags, environ=new.environ)
        assert result.status == 0, result.stderr
        run_in(fresh, *new.flags, environ=new.environ)
        # What mode NONE finds, it leaves. A -k interface of which nothing is captured leaves a
        # RETURN that cannot be told from a foreign one.
        if "mode NONE" not in result.stderr and "-k" not in old.flags:
            for family in BOTH:
                assert with_rules(saved(name, family)) == with_rules(saved(fresh, family))
