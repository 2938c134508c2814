"""A pod's flags as a checked configuration, with what a pod may not decide in node mode."""

import shlex
from collections.abc import Mapping, Sequence

from ..config.command_line import merge, split
from ..config.config import Config
from ..config.read import read_config
from ..errors import BadCall, Mistake
from ..frozen import replace
from ..kernel.system.host import Host
from .desired import OWN_FLAGS

_LOCK = "/proc/self/ns/net"
"""The network namespace itself: a lock that all who work in it see, and that need not be made."""
_WAIT = 1
"""Seconds for whoever else is at work in the pod, another agent for example."""
_FILES_OF_1_0 = ("/var/lib/istio/envoy/cluster.env", "/var/lib/istio/envoy/sidecar.env")
_OF_THE_PROCESS = ("network_namespace", "pod", "cleanup_only", "dry_run")
"""Flags that have no sense where the agent writes the rules."""


class _NoFiles(Host):
    """The agent's users and groups, which are those of the init container's image; none of its
    files: a pod must not make the agent read them."""

    def read_text(self, path: str) -> str:
        if path in _FILES_OF_1_0:  # which no pod need have
            raise FileNotFoundError
        raise OSError(0, "in node mode no file is read; write the list itself")


def pod_config(
    words: Sequence[str],
    environ: Mapping[str, str],
    annotations: Mapping[str, str] = {},
) -> Config:
    """The configuration of a pod.

    As an init container has it, but for what concerns the process and not the rules, and for DNS:
    the name servers of the pod are not known here, so unless --dns-servers names them, all DNS is
    redirected if any is.
    Raises BadCall; a mistake in a flag that one of `annotations` set names it, too.
    """
    given = merge(split(words), environ)
    if "redirect_dns" in given and "dns_servers" not in given:
        words = (*words, "--capture-all-dns")
    try:
        config = read_config(words, environ, _NoFiles())
        mistakes = [
            Mistake(given[name].source, None, "not possible in node mode; remove it")
            for name in _OF_THE_PROCESS
            if getattr(config, name)
        ]
        if mistakes:
            raise BadCall(mistakes)
    except BadCall as bad:
        raise BadCall([_named(mistake, annotations) for mistake in bad.mistakes]) from None
    return replace(
        config,
        lock_file=_LOCK,
        wait=_WAIT,
        reconcile=True,
        force_apply=False,
        skip_rule_apply=False,
        run_validation=False,
    )


def shell_words(text: str) -> tuple[str, ...]:
    """The words of an annotation that holds flags. Raises BadCall."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        expected = f"expected flags as in a shell: {error}"
        raise BadCall([Mistake(OWN_FLAGS, text, expected)]) from None


def _named(mistake: Mistake, annotations: Mapping[str, str]) -> Mistake:
    name = annotations.get(mistake.source)
    return replace(mistake, source=f"{name}: {mistake.source}") if name else mistake
