"""What a kernel's directory of modules says of one."""

from pathlib import Path

import pytest

from proxy_init.kernel.system.modules import State, state_on_disk

FILES = {
    "modules.dep": """\
kernel/net/ipv4/netfilter/iptable_nat.ko: kernel/net/ipv4/netfilter/ip_tables.ko kernel/x.ko
kernel/net/netfilter/xt-owner.ko.xz: kernel/net/netfilter/x_tables.ko.xz
updates/extra.ko.zst:
""",
    "modules.alias": """\
# Aliases extracted from modules themselves.
alias ipt_owner xt_owner
alias pci:v00001022d*sv*sd*bc*sc*i* amd_bus
""",
    "modules.builtin": "kernel/net/ipv6/netfilter/ip6_tables.ko\nkernel/net/netfilter/xt_mark.ko\n",
    "modules.builtin.modinfo": (
        "xt_mark.author=N. N.\0xt_mark.alias=ip6t_MARK\0xt_mark.alias=ipt_mark\0"
    ),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("iptable_nat", State.NOT_LOADED),
        ("xt_owner", State.NOT_LOADED),
        ("extra", State.NOT_LOADED),
        ("ipt_owner", State.NOT_LOADED),
        ("ip6_tables", State.THERE),
        ("ip6t_MARK", State.THERE),
        ("ipt_mark", State.THERE),
        ("ip_tables", State.MISSING),  # named by what needs it, but has no line of its own
        ("iptable", State.MISSING),
        ("nat", State.MISSING),
        ("ip6t_owner", State.MISSING),
        ("amd_bus", State.MISSING),
        (".*", State.MISSING),
    ],
)
def test_a_module_is_listed_by_its_name_or_an_alias(
    directory: Path, name: str, state: State
) -> None:
    assert state_on_disk(name, directory) is state


def test_where_no_list_is_to_be_seen_it_is_not_known(tmp_path: Path) -> None:
    assert state_on_disk("xt_owner", tmp_path / "none") is State.NOT_KNOWN
    assert state_on_disk("xt_owner", tmp_path) is State.NOT_KNOWN


def test_what_is_built_in_is_known_without_the_list_of_others(directory: Path) -> None:
    (directory / "modules.dep").unlink()
    assert state_on_disk("xt_mark", directory) is State.THERE
    assert state_on_disk("xt_owner", directory) is State.NOT_KNOWN
