"""--pod: the network namespace of a pod on a node, as the container runtime tells it.

crictl is played by a script here, with answers of containerd; tests/cluster asks a real one.
"""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pods import namespace
from tests.foreign import NONE_MADE, tables_made
from tests.running import Result, fresh_namespace, run_in

FLAGS = ("-u", "1337", "-i", "*", "-b", "*")


def sandbox(name: str, created: int = 1, of: str = "default") -> dict[str, Any]:
    """A line of `crictl pods -o json`."""
    metadata = {"name": name, "uid": f"uid-{created}", "namespace": of, "attempt": 0}
    return {
        "id": f"{of}-{name}-{created}",
        "metadata": metadata,
        "state": "SANDBOX_READY",
        "createdAt": str(created),
    }


def inspected(path: str | None, network: str = "POD", pid: int | None = None) -> dict[str, Any]:
    """What `crictl inspectp -o json` says of one."""
    namespaces = [{"type": "pid"}, {"type": "network", **({"path": path} if path else {})}]
    return {
        "status": {"linux": {"namespaces": {"options": {"network": network, "pid": "CONTAINER"}}}},
        "info": {
            **({"pid": pid} if pid else {}),
            "runtimeSpec": {"linux": {"namespaces": namespaces}},
        },
    }


def asking(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    pods: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Mapping[str, Any]],
) -> None:
    """Put a crictl on the path that knows these pods."""
    (directory / "pods").write_text(json.dumps({"items": list(pods)}))
    for name, answer in answers.items():
        (directory / name).write_text(json.dumps(answer))
    program(
        directory,
        f'echo "$@" >>{directory}/calls\n'
        f'case $1 in pods) cat {directory}/pods;; inspectp) cat "{directory}/$4";; esac',
    )
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def program(directory: Path, script: str) -> None:
    path = directory / "crictl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def applied(fresh: str, pod: str) -> Result:
    return run_in(fresh, *FLAGS, "--pod", pod)


def test_it_works_in_the_network_namespace_of_the_newest_ready_pod_of_that_name(
    fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_namespace() as pod, fresh_namespace() as older:
        pods = [
            sandbox("web-0", 1),
            sandbox("web-0", 7),
            sandbox("web-00", 9),
            sandbox("web-0", 8, "x"),
        ]
        answers = {
            "default-web-0-1": inspected(f"/var/run/netns/{older}"),
            "default-web-0-7": inspected(f"/var/run/netns/{pod}"),
        }
        asking(tmp_path, monkeypatch, pods, answers)
        assert applied(fresh, "default/web-0").status == 0
        assert tables_made(pod) != NONE_MADE
        assert tables_made(older) == tables_made(fresh) == NONE_MADE
        assert run_in(fresh, "status", *FLAGS, "--pod", "default/web-0").status == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "pods -o json --namespace default --name ^web\\-0$ --state Ready"


def test_without_a_path_the_process_of_the_sandbox_names_the_namespace(
    fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stay(tell: namespace.Tell) -> None:
        import signal

        tell(os.getpid())
        signal.pause()

    with fresh_namespace() as pod, namespace.process(pod, stay) as pid:
        answers = {"default-web-0-1": inspected("/var/run/netns/gone", pid=int(pid))}
        asking(tmp_path, monkeypatch, [sandbox("web-0")], answers)
        assert applied(fresh, "default/web-0").status == 0
        assert tables_made(pod) != NONE_MADE


@pytest.mark.parametrize(
    ("pod", "answer", "says"),
    [
        (
            "default/web-1",
            None,
            "--pod: got 'default/web-1', expected a pod that runs on this node",
        ),
        ("default/web-0", inspected(None, "NODE"), "this one uses that of the node"),
        ("web-0", None, "--pod: got 'web-0', expected a pod as NAMESPACE/NAME"),
        ("default/..", None, "expected a pod as NAMESPACE/NAME"),
    ],
    ids=["not here", "host network", "no namespace", "no name"],
)
def test_what_is_no_pod_here_is_a_wrong_call(
    pod: str,
    answer: Mapping[str, Any] | None,
    says: str,
    fresh: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking(tmp_path, monkeypatch, [sandbox("web-0")], {"default-web-0-1": answer or {}})
    result = applied(fresh, pod)
    assert (result.status, result.stdout) == (2, "")
    assert says in result.stderr
    assert tables_made(fresh) == NONE_MADE


def test_it_is_given_alone(fresh: str) -> None:
    result = run_in(fresh, *FLAGS, "--pod", "a/b", "--network-namespace", "x")
    assert result.status == 2
    assert "--pod: got 'a/b', cannot be combined with --network-namespace" in result.stderr


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "the program crictl (cri-tools), which asks the container runtime, is not here"),
        ("echo 'time=1 level=fatal msg=denied' >&2; exit 1", "level=fatal msg=denied"),
        ("exit 1", "crictl failed: without a reason"),
        ("echo no json", "crictl failed: "),
        (
            f"echo '{json.dumps({'items': [sandbox('web-0')]})}'",
            "does not tell the network namespace",
        ),
    ],
    ids=["missing", "fails", "fails silently", "garbled", "tells nothing"],
)
def test_where_the_runtime_cannot_be_asked_it_says_why_and_what_to_do(
    script: str | None, says: str, fresh: str, tmp_path: Path
) -> None:
    if script is not None:
        program(tmp_path, script)
    path = {"PATH": str(tmp_path)}
    result = run_in(fresh, *FLAGS, "--pod", "default/web-0", environ=path)
    assert (result.status, result.stdout) == (4, "")
    assert says in result.stderr and "or give --network-namespace /proc/PID/ns/net" in result.stderr
    assert tables_made(fresh) == NONE_MADE
