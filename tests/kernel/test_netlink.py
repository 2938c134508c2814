"""Lists through netlink: told whole, also where they are long or change meanwhile."""

import errno
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pods import namespace
from proxy_init.frozen import replace
from proxy_init.kernel.routing.rtnetlink import connected
from proxy_init.kernel.system.netlink import Connection

FAMILIES: dict[int, str] = {socket.AF_INET: "-4", socket.AF_INET6: "-6"}


def rules_in(name: str, family: int) -> list[tuple[int, int]]:
    """Priority and table of each rule, as we read them."""

    def ask() -> list[tuple[int, int]]:
        with connected() as netlink:
            found = netlink.get("rule", family)
        return [(each.get("priority", 0), each["table"]) for each in found]

    return namespace.call(name, ask)


@pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])
def test_a_list_of_many_messages_is_told_whole(fresh: str, tmp_path: Path, family: int) -> None:
    batch = tmp_path / "batch"
    numbers = range(1000, 2000)
    batch.write_text("".join(f"rule add pref {n} fwmark {n} lookup {n}\n" for n in numbers))
    ip = ["ip", FAMILIES[family]]
    namespace.run(fresh, [*ip, "-batch", str(batch)]).check_returncode()
    rules = rules_in(fresh, family)
    assert set(rules) >= {(number, number) for number in numbers}
    assert len(rules) == len(json.loads(namespace.run(fresh, [*ip, "-json", "rule"]).stdout))


def interrupted(times: int) -> Callable[[Any], Iterator[Any]]:
    """How the kernel answers if the list changes while it tells so many of them."""
    real, asked = Connection._answers, iter(range(1000))

    def answers(connection: Connection) -> Iterator[Any]:
        changed = next(asked) < times
        for answer in real(connection):
            yield replace(answer, disturbed=changed or answer.disturbed)

    return answers


def test_a_list_that_changes_meanwhile_is_asked_for_again(
    fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = rules_in(fresh, socket.AF_INET)
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_answers", interrupted(3))
        assert rules_in(fresh, socket.AF_INET) == rules
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_answers", interrupted(1000))
        with pytest.raises(OSError, match="changes all the time") as caught:
            rules_in(fresh, socket.AF_INET)
        assert caught.value.errno == errno.EAGAIN
