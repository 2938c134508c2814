"""A shell inside the place: python -m cluster.shell kubernetes|containerd"""

import os
import subprocess
import sys
from contextlib import ExitStack

from cluster import programs
from cluster.containerd import running_containerd
from cluster.kubernetes import KUBECONFIG, running_kubernetes

WELCOME = """\
cluster: it is up, and ends with this shell. {programs}
cluster: image of the agent and the init container: registry.example.com/proxy-init:0.1.0;
cluster: Pods to apply: netns-fixtures/manifests/envoy.yaml first, then sidecar.yaml and others"""


def main() -> int:
    """Start what the argument names, and a shell; gives its exit status."""
    with ExitStack() as stack:
        containerd = stack.enter_context(running_containerd())
        found = "crictl and ctr are on PATH."
        if sys.argv[1] == "kubernetes":
            stack.enter_context(running_kubernetes(containerd))
            found = f"kubectl, helm, {found}"
        print(WELCOME.format(programs=found), file=sys.stderr)
        directories = (
            programs.KUBERNETES,
            programs.HELM.parent,
            programs.CRICTL.parent,
            programs.containerd(containerd.version),
        )
        environment = os.environ | {
            "PATH": ":".join([*map(str, directories), os.environ["PATH"]]),
            "KUBECONFIG": str(KUBECONFIG),
            "CONTAINERD_NAMESPACE": "k8s.io",
        }
        return subprocess.run([os.environ.get("SHELL", "/bin/sh")], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
