"""The network namespace of a pod on this node, which the node's container runtime knows.

The runtime is asked by the program crictl, which nodes have for that, and which knows where the
runtime listens. Speaking its protocol (gRPC) would take a library of 15 MB for one answer.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from ...errors import BadCall, Mistake, NodeCannot

_SECONDS = 30
_ELSEWHERE = "or give --network-namespace /proc/PID/ns/net, by any process of the pod"


def network_namespace_of(pod: str, source: str) -> str:
    """The path of the network namespace of the pod NAMESPACE/NAME.

    `source` is the flag that named it. Raises BadCall if no such pod runs here, or it has no
    network namespace of its own; NodeCannot if the runtime does not tell.
    """
    namespace, _, name = pod.partition("/")
    exactly = f"^{re.escape(name)}$"  # crictl takes it for a regular expression
    words = ("pods", "--namespace", namespace, "--name", exactly, "--state", "Ready")
    ready = [
        each
        for each in _asked(source, *words).get("items") or ()
        if (each["metadata"]["namespace"], each["metadata"]["name"]) == (namespace, name)
    ]
    if not ready:
        expected = "expected a pod that runs on this node, as NAMESPACE/NAME"
        hint = "kubectl get pod -o wide shows the node of a pod"
        raise BadCall([Mistake(source, pod, expected, hint)])
    newest = max(ready, key=lambda each: int(each.get("createdAt") or 0))
    sandbox = _asked(source, "inspectp", newest["id"])
    if _option(sandbox) == "NODE":
        expected = "expected a pod with a network of its own: this one uses that of the node"
        raise BadCall([Mistake(source, pod, expected)])
    path = _path(sandbox.get("info") or {})
    if path is None:
        raise NodeCannot(f"{source}: the runtime does not tell the network namespace; {_ELSEWHERE}")
    return path


def _asked(source: str, command: str, *words: str) -> dict[str, Any]:
    """What crictl answers."""
    try:
        answer = subprocess.run(
            ["crictl", command, "-o", "json", *words],  # it takes no option behind an argument
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        found: dict[str, Any] = json.loads(answer.stdout)
    except FileNotFoundError:
        why = "the program crictl (cri-tools), which asks the container runtime, is not here"
    except subprocess.CalledProcessError as error:
        why = f"crictl failed: {(error.stderr.strip().splitlines() or ['without a reason'])[-1]}"
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        why = f"crictl failed: {error}"
    else:
        return found
    raise NodeCannot(f"{source}: {why}; {_ELSEWHERE}")


def _option(sandbox: Any) -> object:
    """How the sandbox has its network: of the pod, or of the node."""
    linux = (sandbox.get("status") or {}).get("linux") or {}
    return ((linux.get("namespaces") or {}).get("options") or {}).get("network")


def _path(info: Any) -> str | None:
    linux = (info.get("runtimeSpec") or {}).get("linux") or {}
    named = [
        each.get("path") for each in linux.get("namespaces") or () if each.get("type") == "network"
    ]
    paths = [path for path in named if path and Path(path).exists()]
    if info.get("pid"):
        paths.append(f"/proc/{info['pid']}/ns/net")
    return paths[0] if paths else None
