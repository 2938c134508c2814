"""What is wrong with a pod's traffic, as far as its network namespace shows it, and what to do.

Everything is concluded from rules, counters, addresses and sockets, not from flags: whoever debugs
a pod does not have them. Pure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from ..frozen import replace
from ..rules.matches import (
    Comment,
    Destination,
    DestinationPort,
    InInterface,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
)
from ..rules.model import PREFIX, Family
from ..rules.ownership import numbers_of_ours
from ..rules.targets import DROP, RETURN, Goto, Jump, Redirect, Reject, Tproxy, Verdict
from ..rules.wording import printable
from .kernel_rules import TableKind, whole
from .listeners import Listener
from .packet_walk import Outcome, endpoint_text, walk
from .pod_facts import FAR, HOOKS, FamilyRules, Placed, Pod, is_global_address, sent

_OTHER_MESHES = {
    "PROXY_INIT_": "Linkerd",
    "KUMA_MESH_": "Kuma",
    "MESH_": "Kuma",
    "CONSUL_": "Consul",
    "OSM_PROXY_": "Open Service Mesh",
    "APPMESH_": "AWS App Mesh",
}
"""By the prefix of their chains. Sources: linkerd2-proxy-init pkg/iptables, kuma
pkg/transparentproxy/iptables/consts, consul sdk/iptables, osm pkg/injector/iptables.go."""


class Cause(Enum):
    """What is wrong, as a word for programs."""

    NOT_LISTENING = "not listening"
    LOOP = "loop"
    WRONG_LISTENER = "wrong listener"
    OTHER_MESH = "other mesh"
    BYPASSED = "bypassed"
    NO_POLICY_ROUTE = "no policy route"
    IPV6_NOT_CAPTURED = "IPv6 not captured"
    BOTH_KINDS = "both kinds of tables"
    SERVICES_EXCLUDED = "services excluded"
    INBOUND_NOT_CAPTURED = "inbound not captured"


@dataclass(frozen=True)
class Finding:
    """What is wrong, or looks so; what to do; and a call that shows more, or nothing."""

    cause: Cause
    says: str
    remedy: str
    call: str = ""


def diagnose(pod: Pod) -> tuple[Finding, ...]:
    """What is wrong with a pod in which there are rules of ours; the gravest first."""
    captured = [family for family in Family if family in pod.rules and pod.rules[family].ours]
    findings = [
        *_both_kinds(pod, captured),
        *(finding for family in captured for finding in _no_policy_route(pod.rules[family])),
        *_not_listening(pod, captured),
        *_wrong_listener(pod, captured),
        *_loop(pod, captured),
        *(finding for family in captured for finding in _other_mesh(pod, family)),
        *(finding for family in captured for finding in _bypassed(pod.rules[family])),
        *_services_excluded(pod, captured),
        *_inbound_not_captured(pod, captured),
        *_ipv6_not_captured(pod, captured),
    ]
    return tuple(dict.fromkeys(findings))


def _listed(items: Iterable[object]) -> str:
    *others, last = [str(each) for each in items]
    return f"{', '.join(others)} and {last}" if others else last


def _both_kinds(pod: Pod, captured: Iterable[Family]) -> Iterator[Finding]:
    for family in captured:
        kinds = {each.table.kind for each in pod.rules[family].ours}
        if TableKind.LEGACY in kinds and len(kinds) > 1:
            yield Finding(
                Cause.BOTH_KINDS,
                "Rules of a sidecar are in the legacy tables and in nf_tables at once: a packet "
                "meets both, and what one of them excludes the other may capture.",
                "Run proxy-init again with the flags of the pod: it keeps one kind and removes the "
                "other. Two init containers that use different iptables programs, or a node that "
                "changed from one to the other, leave this behind.",
            )
            return


def _no_policy_route(of: FamilyRules) -> Iterator[Finding]:
    marks = {each.rule.target.mark for each in of.ours if isinstance(each.rule.target, Tproxy)}
    there = {route.mark for route in of.policy_routes}
    for mark in sorted(marks - there):
        ip = "ip -6" if of.family is Family.V6 else "ip"
        yield Finding(
            Cause.NO_POLICY_ROUTE,
            f"The policy route of mode TPROXY is missing for {of.family.title}: what the "
            f"application answers the proxy (mark {mark:#x}) leaves the pod, so captured "
            "connections hang.",
            f"Run proxy-init again with the flags of the pod. `{ip} rule` must have a rule for "
            f"fwmark {mark:#x}, and its table a route `local default dev lo`; the kernel drops "
            "that route when lo goes down.",
        )


@dataclass(frozen=True)
class _Capture:
    """A port to which our rules of a family send packets, and whether by TPROXY."""

    family: Family
    protocol: str
    port: int
    transparent: bool


def _captures(of: FamilyRules) -> Iterator[_Capture]:
    targets = [(each.rule, each.rule.target) for each in of.ours]
    by_tproxy = {target.port for _, target in targets if isinstance(target, Tproxy)}
    for rule, target in targets:
        if isinstance(target, Redirect | Tproxy):
            protocols = [m.name for m in rule.matches if isinstance(m, Protocol | DestinationPort)]
            protocol = protocols[0] if protocols else "tcp"
            yield _Capture(of.family, protocol, target.port, target.port in by_tproxy)


def _serving(pod: Pod, capture: _Capture) -> list[Listener]:
    family, port = capture.family, capture.port
    return [each for each in pod.listeners or () if each.takes(capture.protocol, port, family)]


def _all_captures(pod: Pod, captured: Iterable[Family]) -> list[_Capture]:
    return list(dict.fromkeys(c for family in captured for c in _captures(pod.rules[family])))


def _not_listening(pod: Pod, captured: Iterable[Family]) -> Iterator[Finding]:
    if pod.listeners is None:
        return
    absent: dict[tuple[str, int], list[_Capture]] = {}
    for capture in _all_captures(pod, captured):
        if not _serving(pod, capture):
            absent.setdefault((capture.protocol, capture.port), []).append(capture)
    by_families: dict[str, list[str]] = {}
    dropped = False
    for (protocol, port), those in sorted(absent.items()):
        everywhere = len(those) == len(list(captured))
        families = "" if everywhere else f" over {those[0].family.title}"
        by_families.setdefault(families, []).append(f"{protocol.upper()} port {port}")
        dropped = dropped or any(each.transparent for each in those)
    for families, ports in by_families.items():
        what = "are refused, or dropped where TPROXY captures" if dropped else "are refused"
        yield Finding(
            Cause.NOT_LISTENING,
            f"Nobody listens on {_listed(ports)}{families}, where the rules send captured "
            f"traffic: captured connections {what}.",
            "Look whether the proxy's container runs, and at its log: kubectl logs POD -c "
            "istio-proxy. If it listens on other ports, give the init container these: -p for "
            "outbound, -z for inbound.",
        )


def _wrong_listener(pod: Pod, captured: Iterable[Family]) -> Iterator[Finding]:
    for capture in _all_captures(pod, captured):
        # A proxy in mode TPROXY is transparent on its other ports, too.
        known = [each.transparent for each in _serving(pod, capture)]
        if capture.protocol != "tcp" or not known or None in known:
            continue
        if capture.transparent and not any(known):
            yield Finding(
                Cause.WRONG_LISTENER,
                f"The rules capture by TPROXY, and the socket that listens on port {capture.port} "
                "is not transparent (IP_TRANSPARENT): the kernel drops what they send there.",
                "Use one mode for both: the proxy's interception mode TPROXY (in Istio, the "
                "annotation sidecar.istio.io/interceptionMode), or -m REDIRECT for the rules.",
            )
        elif not _has_tproxy(pod, capture.family) and all(known):
            yield Finding(
                Cause.WRONG_LISTENER,
                f"The rules capture by REDIRECT, and the socket that listens on port "
                f"{capture.port} is transparent, as for TPROXY: such a proxy takes the address "
                "where it was reached for the destination, which is its own port.",
                "Use one mode for both: -m TPROXY for the rules, or the proxy's interception mode "
                "REDIRECT (in Istio, the annotation sidecar.istio.io/interceptionMode).",
            )


def _has_tproxy(pod: Pod, family: Family) -> bool:
    return any(isinstance(each.rule.target, Tproxy) for each in pod.rules[family].ours)


def _loop(pod: Pod, captured: Iterable[Family]) -> Iterator[Finding]:
    for family in captured:
        out = pod.outbound(family)
        exempt = [each for each in pod.rules[family].ours if each.rule.target == RETURN]
        matches = [(each, match) for each in exempt for match in each.rule.matches]
        uids = [m.uid for _, m in matches if isinstance(m, OwnerUid) and not m.negated]
        gids = [m.gid for _, m in matches if isinstance(m, OwnerGid) and not m.negated]
        by_gid = [e for e, m in matches if isinstance(m, OwnerGid) and not m.negated]
        if out is None or out.port is None or any(each.packets for each in by_gid):
            continue
        for listener in _serving(pod, _Capture(family, "tcp", out.port, False)):
            # In mode TPROXY proxies are root, for their capabilities, and known by their group.
            if listener.uid not in uids and not (listener.uid == 0 and _has_tproxy(pod, family)):
                owners = (*(f"uid {uid}" for uid in uids), *(f"gid {gid}" for gid in gids))
                who = _listed(dict.fromkeys(owners)) if owners else "nobody"
                unless = f" Unless its group is {_listed(dict.fromkeys(gids))}, w" if gids else " W"
                yield Finding(
                    Cause.LOOP,
                    f"The proxy listens on port {out.port} as uid {listener.uid}, and the rules "
                    f"exempt {who}.{unless}hat it sends is captured and comes back to it, in a "
                    "loop.",
                    f"Run the proxy as one of these (securityContext.runAsUser), or give the init "
                    f"container -u {listener.uid}.",
                    f"proxy-init explain --live --to {endpoint_text(FAR[family], 80)} "
                    f"--uid {listener.uid}",
                )


def _other_mesh(pod: Pod, family: Family) -> Iterator[Finding]:
    of = pod.rules[family]
    found: dict[str, dict[str, None]] = {}
    for hook in HOOKS:
        for each in of.reached(hook, ours=False):
            if isinstance(each.rule.target, Redirect | Tproxy):
                mesh = mesh_of(each.chain) or "a program that we do not know"
                found.setdefault(mesh, {})[each.chain] = None
    for mesh, chains in found.items():
        where = ", ".join(map(printable, chains))
        results = []
        for words, result in (
            ("outbound", pod.outbound(family)),
            ("inbound", pod.inbound(family)),
        ):
            if result and result.path:
                last = next(
                    v for v in reversed(result.path) if isinstance(v.rule.target, Redirect | Tproxy)
                )
                whose = "ours" if last.chain.startswith(PREFIX) else mesh
                results.append(f"{words} connections go to port {result.port} ({whose})")
        yield Finding(
            Cause.OTHER_MESH,
            f"Another program redirects traffic in this pod, too: {mesh} (chain {where}). "
            f"Now {_listed(results)}."
            if results
            else "",
            "A pod can be in one mesh only: remove one of the two injections (labels and "
            "annotations of the pod and its namespace), and start the pod again.",
        )


def mesh_of(chain: str) -> str | None:
    """The mesh whose chains have names like this one, if it is another than ours."""
    names = (mesh for prefix, mesh in _OTHER_MESHES.items() if chain.startswith(prefix))
    return next(names, None)


def _bypassed(of: FamilyRules) -> Iterator[Finding]:
    """Rules of others that decide before ours do, in the same table."""
    for table in of.tables:
        if table.kind in (TableKind.NATIVE, TableKind.OTHERS):
            continue
        for name, own in numbers_of_ours(whole(table.table)).items():
            chain = table.table.chain(name)
            for number, rule in enumerate(chain.rules[: min(own)] if chain else (), start=1):
                placed = Placed(table, name, number, rule)
                yield from _decides(placed, ("ACCEPT", "RETURN", "DROP"))
                if isinstance(rule.target, Jump | Goto):
                    for inner in of.below(table, rule.target.name):
                        yield from _decides(inner, ("ACCEPT", "DROP"))


def _decides(placed: Placed, verdicts: Iterable[str]) -> Iterator[Finding]:
    """A finding if a rule of others keeps what it matches from what follows it."""
    target = placed.rule.target
    matches = [match for match in placed.rule.matches if not isinstance(match, Comment)]
    by_interface = len(matches) == 1 and isinstance(matches[0], InInterface | OutInterface)
    if target == RETURN and by_interface:
        return  # of a -k interface, which a rule set may have alone; see ownership.py
    if isinstance(target, Reject) or (target == DROP and "DROP" in verdicts):
        does = "drops what it matches"
    elif isinstance(target, Verdict) and target.name in verdicts:
        does = "lets what it matches past our rules, uncaptured"
    else:
        return
    packets = placed.packets
    many = "" if packets is None else f" ({packets:,} packet{'' if packets == 1 else 's'} so far)"
    yield Finding(
        Cause.BYPASSED,
        f"A rule of another program stands before ours and {does}{many}: {placed.title}.",
        "Find who adds it (another init container, a CNI plugin, an agent on the node), and have "
        "it add the rule below ours, or not at all.",
    )


def _services_excluded(pod: Pod, captured: Iterable[Family]) -> Iterator[Finding]:
    for known in pod.services:
        family = Family(known.address.version)
        if family not in captured or known.address.is_loopback or known.address.is_link_local:
            continue
        rules = [each.rule for each in pod.rules[family].reached("OUTPUT")]
        sample = replace(sent(family, rules), destination=known.address, destination_port=443)
        result = walk(pod.network(family), sample)
        decided = result.decided_by
        if result.outcome is not Outcome.DIRECT or decided is None or pod.outbound(family) is None:
            continue
        networks = [
            m.network
            for m in decided.rule.matches
            if isinstance(m, Destination)
            and not m.negated
            and m.network.prefixlen < m.network.max_prefixlen
        ]
        for network in networks:
            yield Finding(
                Cause.SERVICES_EXCLUDED,
                f"Connections to {network} are not captured (-x), and it holds "
                f"{known.address}, {known.source}: if that is the network of the services, no "
                "call to a service goes through the proxy.",
                "Exclude single addresses, not the network of the services.",
                f"proxy-init explain --live --to {endpoint_text(known.address, 443)}",
            )


def _inbound_not_captured(pod: Pod, captured: Iterable[Family]) -> Iterator[Finding]:
    captured = list(captured)
    arriving = (each for f in captured for each in pod.rules[f].reached("PREROUTING", ours=True))
    if any(isinstance(each.rule.target, Redirect | Tproxy) for each in arriving):
        return
    if not any(map(pod.outbound, captured)):
        return
    yield Finding(
        Cause.INBOUND_NOT_CAPTURED,
        "Outbound traffic is captured, and inbound traffic is not: the rules are those of flags "
        "without -b, or with an empty one.",
        "If the pod's arguments have -b, look at the flag before it: a flag whose value is missing "
        "takes the next word as its value, such as -x in `-x -b '*'`, where a template left out "
        "an empty -x \"\". Write -b '*' to capture all inbound ports.",
        "kubectl get pod POD -o jsonpath='{.spec.initContainers[*].args}'",
    )


def _ipv6_not_captured(pod: Pod, captured: Iterable[Family]) -> Iterator[Finding]:
    captured = list(captured)
    own = [a for a in pod.addresses if a.version == 6 and is_global_address(a)]
    if own and captured == [Family.V4]:
        yield Finding(
            Cause.IPV6_NOT_CAPTURED,
            f"The pod has a global IPv6 address ({min(own, key=int)}), and IPv6 is not captured: "
            "connections over it bypass the proxy, in both directions.",
            "Give the init container --dual-stack (ISTIO_DUAL_STACK=true).",
            f"proxy-init explain --live --to {endpoint_text(FAR[Family.V6], 80)}",
        )
