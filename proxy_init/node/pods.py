"""Pods and containers as the agent sees them: what is kept of the runtime's messages."""

import re
from collections.abc import Mapping

from ..config.flags import FLAGS
from ..errors import ApplyFailed, shown
from ..frozen import Frozen
from .nri_pb2 import Container as ContainerMessage
from .nri_pb2 import PodSandbox

VALIDATION, PROXY, INIT = "istio-validation", "istio-proxy", "istio-init"
"""Names of containers that Istio's injector makes."""
NOTE = "proxy-init.io/validation"
"""The annotation of a container in which the agent keeps what istio-validation was called with: the
runtime lists no container that has ended."""

_VARIABLES = {name for flag in FLAGS for name in flag.variables.split()} | {
    *("ENVOY_USER", "ISTIO_CLUSTER_CONFIG", "ISTIO_SIDECAR_CONFIG", "DISABLE_ENVOY"),
}
_NETNS = re.compile(r"(?:/var)?(/run/netns/[A-Za-z0-9_-][A-Za-z0-9._-]*)")


class Pod(Frozen):
    """A pod: what the API says of it, and its network namespace, None for the node's own."""

    id: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    netns: str | None

    @property
    def title(self) -> str:
        """How the log calls it."""
        return f"{self.namespace[:63]}/{self.name[:253]}"


class Container(Frozen):
    """A container. Of those that do not matter for the rules, only the name is kept."""

    name: str
    argv: tuple[str, ...] = ()
    environ: Mapping[str, str] = {}
    """The variables that we know."""
    note: str = ""


def pod_of(message: PodSandbox) -> Pod:
    """A pod as the runtime describes it. Raises ApplyFailed for a path that no pod's has."""
    paths = [each.path for each in message.linux.namespaces if each.type == "network"]
    return Pod(
        message.id,
        message.namespace,
        message.name,
        dict(message.labels),
        dict(message.annotations),
        _checked(paths[0]) if paths and paths[0] else None,
    )


def _checked(path: str) -> str:
    """The path as it is in the agent's container, which has /run/netns but no /var/run."""
    found = _NETNS.fullmatch(path)
    if not found:
        raise ApplyFailed(f"expected a network namespace in /run/netns, got {shown(path)}")
    return found[1]


def container_of(message: ContainerMessage) -> Container:
    """A container as the runtime describes it."""
    note = message.annotations.get(NOTE, "")
    if message.name not in (VALIDATION, PROXY):
        return Container(message.name, note=note)
    pairs = (entry.partition("=") for entry in message.env)
    environ = {name: value for name, _, value in pairs if name in _VARIABLES}
    return Container(message.name, tuple(message.args), environ, note)
