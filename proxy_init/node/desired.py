"""What is to be done about a pod's traffic, from what the pod says. Pure.

In this order: the call of its container istio-validation; its annotations, as Istio's CNI plugin
reads them; an annotation of our own that holds flags.
"""

import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import TypeAlias

from ..config.values import items
from ..errors import BadCall, Mistake
from ..frozen import Frozen, replace
from .pods import INIT, PROXY, VALIDATION, Container, Pod

OWN_FLAGS = "proxy-init.io/flags"
RULES_FROM = "proxy-init.io/rules-from"
INJECT = "sidecar.istio.io/inject"
STATUS = "sidecar.istio.io/status"
MOST_BYTES = 128 * 1024
"""Of a pod's flags and variables: what one argument of an init container may hold."""

ISTIO_DEFAULTS = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "-m", "REDIRECT"),
    *("-i", "*", "-b", "*", "-d", "15020,15021,15090", "-o", "15020"),
)
"""What Istio's CNI plugin takes for what no annotation says (cni/pkg/plugin in istio/istio)."""
_ALWAYS_EXCLUDED = ("15020", "15021", "15090")
_TRAFFIC = "traffic.sidecar.istio.io/"
_FLAG_OF = {
    "sidecar.istio.io/interceptionMode": "-m",
    f"{_TRAFFIC}includeOutboundIPRanges": "-i",
    f"{_TRAFFIC}excludeOutboundIPRanges": "-x",
    f"{_TRAFFIC}includeInboundPorts": "-b",
    f"{_TRAFFIC}excludeInboundPorts": "-d",
    f"{_TRAFFIC}includeOutboundPorts": "-q",
    f"{_TRAFFIC}excludeOutboundPorts": "-o",
    f"{_TRAFFIC}excludeInterfaces": "-c",
    f"{_TRAFFIC}kubevirtInterfaces": "-k",
    "istio.io/reroute-virtual-interfaces": "-k",  # after the one that it replaces
}
_OF_PROXY = ("ISTIO_META_DNS_CAPTURE", "ISTIO_DUAL_STACK", "INVALID_DROP")
"""Variables of the proxy's container that Istio's CNI plugin reads."""
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")
_CONTAINER_NAME = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Redirect(Frozen):
    """Rules, by flags and variables as an init container would have them.

    `text` are more flags, as in a shell. `source` says where they come from; `annotations`, which
    of them set a flag. `if_missing`: only where no rules are, since the pod's exact flags are no
    longer known.
    """

    words: tuple[str, ...]
    environ: Mapping[str, str]
    source: str
    text: str = ""
    annotations: Mapping[str, str] = {}
    if_missing: bool = False
    note: str = ""


class NoRules(Frozen):
    """No rules for now, or not any more: those that are there are removed."""

    why: str
    instead_of: Redirect = Redirect((), {}, "")


class LeaveAlone(Frozen):
    """Whatever is in the pod's network namespace is not ours to change."""

    why: str


Desired: TypeAlias = Redirect | NoRules | LeaveAlone


def desired_state(
    pod: Pod, containers: Mapping[str, Container], defaults: Sequence[str], created: str = ""
) -> Desired:
    """What is to be done about a pod, with the containers that it has had so far, by name.

    `created` is the one that is being created. `defaults` are flags for pods whose annotations do
    not say otherwise. Raises BadCall for annotations that can't be read.
    """
    if pod.netns is None:
        return LeaveAlone("it uses the network of the node")
    injected = _injected(pod)
    if INIT in containers or INIT in injected:
        return LeaveAlone(f"its container {INIT} writes the rules")
    said = _by_istio(pod, containers, injected, defaults)
    if OWN_FLAGS in pod.annotations:
        if isinstance(said, Redirect):
            said = replace(said, note=f"{OWN_FLAGS} is ignored: {said.source} says what to do")
        else:
            text = pod.annotations[OWN_FLAGS]
            said = _checked(Redirect((), {}, f"annotation {OWN_FLAGS}", text))
    if not isinstance(said, Redirect) or RULES_FROM not in pod.annotations:
        return said
    first = _container_name(pod.annotations[RULES_FROM], injected)
    if first in containers or created == VALIDATION:
        return said
    return NoRules(f"its rules wait for the container {first}", said)


def _by_istio(
    pod: Pod, containers: Mapping[str, Container], injected: Set[str], defaults: Sequence[str]
) -> Desired:
    inject = pod.labels.get(INJECT) or pod.annotations.get(INJECT, "")
    if inject.lower() in _FALSE:
        return LeaveAlone(f"{INJECT} is {inject}")
    exact = _exact(containers)
    if exact:
        return _checked(exact)
    if STATUS not in pod.annotations:
        return LeaveAlone("nothing in it asks for redirection")
    if injected and PROXY not in injected:
        return LeaveAlone(f"it has no container {PROXY}")
    proxy = containers.get(PROXY, Container(PROXY))
    reason = _no_sidecar(proxy)
    if reason:
        return NoRules(reason)
    annotations = {flag: name for name, flag in _FLAG_OF.items() if name in pod.annotations}
    words = [*ISTIO_DEFAULTS, *defaults]
    for flag, name in annotations.items():
        text = pod.annotations[name]
        if flag == "-d":
            text = ",".join(dict.fromkeys((*items(text), *_ALWAYS_EXCLUDED)))
        words += [flag, text]
    environ = {name: proxy.environ[name] for name in _OF_PROXY if name in proxy.environ}
    redirect = Redirect(tuple(words), environ, "annotations of Istio", annotations=annotations)
    return _checked(replace(redirect, if_missing=VALIDATION in injected))


def _exact(containers: Mapping[str, Container]) -> Redirect | None:
    """What istio-validation was called with: by itself, or by the note in a later container."""
    validation = containers.get(VALIDATION)
    if validation:
        words = words_of_call(validation.argv)
        if words is not None:
            return Redirect(words, validation.environ, f"container {VALIDATION}")
    for container in containers.values():
        noted = container.note and _read_note(container.note)
        if noted:
            return noted
    return None


def words_of_call(argv: Sequence[str]) -> tuple[str, ...] | None:
    """The flags of a call of Istio's program or ours, with whatever entry point before it."""
    if "istio-iptables" in argv:
        return tuple(argv[argv.index("istio-iptables") + 1 :])
    if argv and argv[0].rpartition("/")[2] == "proxy-init":
        return tuple(argv[1:])
    return None


def note_of(redirect: Redirect) -> str:
    """Text from which `desired_state` can tell what istio-validation was called with."""
    return json.dumps({"flags": redirect.words, "environment": redirect.environ})


def _read_note(text: str) -> Redirect | None:
    try:
        note = json.loads(text)
        words = tuple(map(str, note["flags"]))
        environ = {str(name): str(value) for name, value in note["environment"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return Redirect(words, environ, f"container {VALIDATION}")


def _injected(pod: Pod) -> frozenset[str]:
    """The containers that Istio's injector put into the pod, as far as its annotation says."""
    try:
        status = json.loads(pod.annotations.get(STATUS, ""))
        lists = [status.get("initContainers") or [], status.get("containers") or []]
        return frozenset(str(name) for names in lists for name in names)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return frozenset()


def _no_sidecar(proxy: Container) -> str:
    """Why the proxy takes no redirected traffic; empty if it does."""
    if proxy.environ.get("DISABLE_ENVOY", "").lower() in _TRUE:
        return f"its {PROXY} has DISABLE_ENVOY"
    if "proxy" in proxy.argv[:-1]:
        kind = proxy.argv[proxy.argv.index("proxy") + 1]
        if kind != "sidecar":
            return f"its {PROXY} is no sidecar"
    return ""


def _container_name(text: str, injected: Set[str]) -> str:
    if not _CONTAINER_NAME.fullmatch(text) or (injected and text not in injected):
        expected = "expected the name of the proxy's container"
        hint = f"Istio has injected {', '.join(sorted(injected))}"[:200] if injected else ""
        raise BadCall([Mistake(RULES_FROM, text, expected, hint)])
    return text


def _checked(redirect: Redirect) -> Redirect:
    if sum(map(len, (*redirect.words, redirect.text, *redirect.environ.values()))) > MOST_BYTES:
        expected = f"expected at most {MOST_BYTES} characters"
        raise BadCall([Mistake(redirect.source, None, expected)])
    return redirect
