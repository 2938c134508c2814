"""What every test that touches the kernel has."""

import os
from collections.abc import Iterator

import pytest

from pods import ENVIRONMENT
from tests.running import fresh_namespace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked `with_legacy_tables` where it would run through nf_tables."""
    items[:] = [
        item
        for item in items
        if not (item.get_closest_marker("with_legacy_tables") and _backend(item) == "nft")
    ]


def _backend(item: pytest.Item) -> object:
    call = getattr(item, "callspec", None)
    return call.params.get("backend") if call else None


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test that is marked `both_backends` runs through: the program, and what it is compared
    with. The others leave the choice to the program."""
    if hasattr(request, "param"):
        monkeypatch.setenv("PROXY_INIT_BACKEND", request.param)
        monkeypatch.setitem(ENVIRONMENT, "PROXY_INIT_BACKEND", request.param)


@pytest.fixture
def fresh() -> Iterator[str]:
    """A network namespace in which nobody has touched any table; lo is up."""
    with fresh_namespace() as name:
        yield name


@pytest.fixture(scope="session", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A lock file of this test process's own: iptables gives up where another holds the lock, and
    tests that run side by side have nothing to do with each other."""
    outside = os.environ.get("XTABLES_LOCKFILE")
    os.environ["XTABLES_LOCKFILE"] = str(tmp_path_factory.mktemp("lock") / "xtables.lock")
    yield
    if outside is None:
        del os.environ["XTABLES_LOCKFILE"]
    else:
        os.environ["XTABLES_LOCKFILE"] = outside
