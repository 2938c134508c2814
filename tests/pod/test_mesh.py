"""Real Pods with a real Envoy: what passes it, what does not, and whom the application sees."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node import Node, RunningPod
from pods import namespace
from tests.pod.mesh import (
    APP_PORT,
    CAPTURED,
    CLIENT,
    EXCLUDED,
    MANIFESTS,
    READY_PORT,
    SEEN,
    fetch,
    get,
    requests,
    start,
    until,
    url,
)

APP = Path(__file__).resolve().parents[2] / "netns-fixtures/images/app.py"


class Mesh(dict[str, RunningPod]):
    """The Pods of MANIFESTS, each of which is started when it is first asked for."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __missing__(self, kind: str) -> RunningPod:
        self[kind] = start(self._node, MANIFESTS[kind])
        return self[kind]


@pytest.fixture(scope="session")
def mesh(node: Node) -> Mesh:
    """The Pods of this test process, which may run any of the tests."""
    return Mesh(node)


@pytest.fixture
def client(mesh: Mesh) -> RunningPod:
    """The Pod that asks."""
    return mesh["client"]


@contextmanager
def outside(node: Node) -> Iterator[None]:
    """A web server on the node, which is no part of the mesh."""
    command = [
        *namespace.command_in(node.namespace),
        sys.executable,
        str(APP),
        "serve",
        str(APP_PORT),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            until(lambda: fetch(node.namespace, "127.0.0.1", APP_PORT))
            yield
        finally:
            server.kill()


@pytest.mark.parametrize("kind", ["today's", "TPROXY"])
def test_the_init_container_runs_as_its_manifest_says(node: Node, mesh: Mesh, kind: str) -> None:
    (container,) = json.loads(node.podman("inspect", f"{mesh[kind].name}-istio-init").stdout)
    assert sorted(container["EffectiveCaps"]) == ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    settings = container["HostConfig"]
    assert settings["ReadonlyRootfs"]
    assert settings["SecurityOpt"] == ["no-new-privileges"]
    assert settings["Memory"] == 128 * 1024 * 1024


@pytest.mark.parametrize(("kind", "version"), SEEN)
def test_a_request_passes_both_sidecars(
    client: RunningPod, mesh: Mesh, kind: str, version: int
) -> None:
    server = mesh[kind]
    before = requests(client, server)
    answer = get(client, url(server.addresses[version]))
    assert answer["pod"] == server.name
    seen = SEEN[kind, version]
    assert answer["client"] == (client.addresses[version] if seen is CLIENT else seen)
    assert requests(client, server) - before == Counter(
        {f"{client.name} outbound": 1, f"{server.name} inbound": 1}
    )


def test_a_server_asks_as_well(mesh: Mesh) -> None:
    asking, asked = mesh["TPROXY"], mesh["today's"]
    before = requests(asking, asked)
    assert get(asking, url(asked.addresses[4]))["pod"] == asked.name
    assert requests(asking, asked) - before == Counter(
        {f"{asking.name} outbound": 1, f"{asked.name} inbound": 1}
    )


def test_what_x_names_does_not_pass_the_sidecar(node: Node, client: RunningPod) -> None:
    with outside(node):
        before = requests(client)
        assert "x-request-id" not in get(client, url(EXCLUDED))["headers"]
        assert requests(client) == before
        assert "x-request-id" in get(client, url(CAPTURED))["headers"]
        assert requests(client) - before == Counter({f"{client.name} outbound": 1})


@pytest.mark.parametrize("kind", ["today's", "TPROXY"])
def test_what_d_names_does_not_pass_the_sidecar(node: Node, mesh: Mesh, kind: str) -> None:
    server = mesh[kind]
    before = requests(server)
    assert fetch(node.namespace, server.addresses[4], READY_PORT) == "ready"
    assert requests(server) == before
    assert json.loads(fetch(node.namespace, server.addresses[4], APP_PORT))["pod"] == server.name
    assert requests(server) - before == Counter({f"{server.name} inbound": 1})


@pytest.mark.parametrize("kind", ["today's", "1.0's", "dual TPROXY"])
def test_a_second_run_in_a_running_pod_disturbs_nothing(
    node: Node, client: RunningPod, mesh: Mesh, kind: str
) -> None:
    server = mesh[kind]
    before = requests(client, server)
    keep = ("/app.py", "keep", url(server.addresses[4]))
    with subprocess.Popen(
        node.command("exec", "--interactive", f"{client.name}-app", *keep),
        env=node.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        try:
            assert asking.stdout.readline() == "started\n"
            for pod in (client, server):
                again = pod.run_again("istio-init")
                assert again.returncode == 0, again.stderr
                assert "result=unchanged " in again.stderr.splitlines()[-1]
            report = json.loads(asking.communicate(timeout=30)[0])
        finally:
            asking.kill()
    assert report["failures"] == []
    assert min(report["counts"].values()) > 0
    sent = 1 + sum(report["counts"].values())
    assert requests(client, server) - before == Counter(
        {f"{client.name} outbound": sent, f"{server.name} inbound": sent}
    )
