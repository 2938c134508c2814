"""Reads flags, variables and the files that they name into a Config, or reports all errors.

It does not use the kernel, and queries the machine only through `machine.Machine`.
"""

from __future__ import annotations

from ..errors import BadCall, Mistake, shown
from ..frozen import replace
from ..rules.model import Family
from ..rules.networks import Network, network_around
from . import values
from .command_line import split
from .config import (
    EVERYTHING,
    LOOPBACK_V4,
    OLD_RULES,
    TPROXY_OUTBOUND_MARK,
    Config,
    Everything,
    Mode,
    Networks,
)
from .flags import ABOUT_RULES, FLAGS, Flag
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .machine import Machine

RESOLV_CONF = "/etc/resolv.conf"
MAX_OWNER_GROUPS = 64
_BACKENDS = ("legacy", "nft")


def read_config(
    argv: Sequence[str],
    environ: Mapping[str, str],
    machine: Machine,
    extra: Sequence[Flag] = (),
) -> Config:
    """Read and check the words after the command's name, and the environment.

    `extra` are the options that only this command has.
    Raises BadCall with every error of the call. With --strict, warnings are errors too.
    """
    line = split(argv, extra)
    settings = Settings(line, environ, machine, extra)
    if settings.old_rules:
        environ = _environ_of_1_0(settings)
        settings = Settings(line, environ, machine, extra, settings.mistakes)
    settings.mistakes.extend(line.mistakes)
    about_rules = not ABOUT_RULES.isdisjoint((*line.given, *settings.given))
    config = replace(_read(settings), own=settings.own(), about_rules=about_rules)
    settings.mistakes.extend(_contradictions(config, settings))
    if not settings.mistakes:
        from .warnings import warnings_of

        warnings = (*settings.warnings, *warnings_of(config, settings.given, environ))
        config = replace(config, warnings=tuple(dict.fromkeys(warnings)))
        settings.mistakes.extend(_warnings_as_errors(config))
    if settings.mistakes:
        raise BadCall(settings.mistakes)
    return config


def _warnings_as_errors(config: Config) -> Iterator[Mistake]:
    if config.strict:
        yield from (Mistake("--strict", None, warning) for warning in config.warnings)


def _read(settings: Settings) -> Config:
    outbound_port = settings.one("outbound_port", values.port, 15001)
    proxy_uids = settings.many("proxy_uids", settings.user) or _default_uids(settings)
    mode = settings.choice("mode", "REDIRECT", *(mode.value for mode in Mode))
    all_outbound = settings.is_everything("outbound_networks")
    captured = () if all_outbound else settings.cidrs("outbound_networks")
    dns_switch = values.dns_switch_of_variable
    redirect_dns = settings.switch("redirect_dns", of_variable=dns_switch)
    groups = settings.many("owner_groups", _group_or_everything(settings))
    backend, backend_notes = _backend(settings)
    ipv4_only, ipv6_only = settings.switch("ipv4_only"), settings.switch("ipv6_only")
    return Config(
        outbound_port=outbound_port,
        inbound_port=settings.one("inbound_port", values.port, outbound_port),
        tunnel_port=settings.one("tunnel_port", values.port, 15008),
        proxy_uids=proxy_uids,
        proxy_gids=settings.many("proxy_gids", settings.group)
        or _default_gids(settings, proxy_uids),
        mode=Mode(mode),
        inbound_ports=(
            EVERYTHING
            if settings.is_everything("inbound_ports")
            else settings.ports("inbound_ports")
        ),
        inbound_excluded_ports=settings.ports("inbound_excluded_ports"),
        outbound_networks=(
            EVERYTHING if all_outbound else tuple(network for network, _ in captured)
        ),
        captures_loopback=any(address.is_loopback for _, address in captured),
        outbound_excluded_networks=settings.networks("outbound_excluded_networks"),
        outbound_ports=settings.ports("outbound_ports"),
        outbound_excluded_ports=settings.ports("outbound_excluded_ports"),
        excluded_interfaces=settings.many("excluded_interfaces", values.interface),
        virtual_interfaces=settings.many("virtual_interfaces", values.interface),
        owner_groups=(
            EVERYTHING
            if groups in ((), (EVERYTHING,))
            else tuple(group for group in groups if group is not EVERYTHING)
        ),
        owner_groups_excluded=settings.many("owner_groups_excluded", settings.group),
        ipv4_loopback=settings.one("ipv4_loopback", _ipv4_loopback, LOOPBACK_V4),
        tproxy_mark=settings.one("tproxy_mark", values.mark, 1337),
        tproxy_route_table=settings.one("tproxy_route_table", values.route_table, 133),
        redirect_dns=redirect_dns,
        capture_all_dns=settings.switch("capture_all_dns", of_variable=dns_switch),
        dns_servers=_dns_servers(settings) if redirect_dns else (),
        drop_invalid=settings.switch("drop_invalid"),
        ipv6=_ipv6(settings),
        dual_stack=settings.switch("dual_stack"),
        dry_run=settings.switch("dry_run"),
        printed_families=tuple(
            family
            for family, other_only in ((Family.V4, ipv6_only), (Family.V6, ipv4_only))
            if not other_only
        ),
        network_namespace=settings.one("network_namespace", str, None),
        network_namespace_source=settings.source("network_namespace"),
        pod=settings.one("pod", values.pod, None),
        reconcile=settings.switch("reconcile", default=True),
        force_apply=settings.switch("force_apply"),
        cleanup_only=settings.switch("cleanup_only"),
        skip_rule_apply=settings.switch("skip_rule_apply"),
        run_validation=settings.switch("run_validation"),
        probe_port=settings.one("probe_port", values.port, 15002),
        probe_timeout=settings.one("probe_timeout", values.duration, 5000),
        ruleset=settings.choice("ruleset", "current", "current", OLD_RULES),
        comments=settings.switch("comments"),
        log_level=settings.one("log_level", _log_level(settings), "info"),
        log_as_json=settings.switch("log_as_json"),
        backend=backend,
        cidr_tree=settings.choice("cidr_tree", "auto", "auto", "never", "always"),
        wait=settings.one("wait", values.wait, 30),
        lock_file=settings.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock",
        strict=settings.switch("strict"),
        output=settings.choice("output", "text", "text", "json"),
        notes=(*_without_effect(settings), *backend_notes),
    )


def _default_uids(settings: Settings) -> tuple[int, ...]:
    uid = settings.machine.user_id(settings.environ.get("ENVOY_USER") or "istio-proxy")
    proxy = 1337 if uid is None else uid
    # 1.0 exempted root for its certificate agent.
    return (proxy, 0) if settings.old_rules else (proxy,)


def _default_gids(settings: Settings, proxy_uids: tuple[int, ...]) -> tuple[int, ...]:
    """The groups with the same numbers and names as the users."""
    if "proxy_uids" not in settings.given:
        return proxy_uids
    users = values.items(settings.given["proxy_uids"].text)
    gids = []
    for user, uid in zip(users, proxy_uids, strict=False):  # unknown users have no uid
        gid = settings.machine.group_id(user) if values.is_name(user) else uid
        if gid is None:
            settings.warnings.append(
                f"{settings.source('proxy_uids')}: there is no group {user}, so gid {uid} is "
                "exempt, the same number as the uid; set the proxy's group with -g"
            )
        gids.append(uid if gid is None else gid)
    return tuple(gids)


def _ipv6(settings: Settings) -> bool | None:
    given = settings.given.get("ipv6")
    if settings.old_rules:
        # The script of 1.0 read any word in the variable as yes, even "false".
        return given is not None and (given.is_variable or settings.switch("ipv6"))
    return None if given is None else settings.switch("ipv6")


def _group_or_everything(settings: Settings) -> Callable[[str], int | Everything]:
    return lambda item: EVERYTHING if item == "*" else settings.group(item)


def _ipv4_loopback(item: str) -> Network:
    expected = "a CIDR inside 127.0.0.0/8"
    network, _ = values.cidr(item)
    if network.version != 4 or not network.is_loopback:
        raise values.BadValue(item, expected)
    return network


def _dns_servers(settings: Settings) -> Networks:
    """The servers of --dns-servers, or those in resolv.conf, as in man 5 resolv.conf: a line ends
    with a line feed, and a server is a plain address. Any other `nameserver` line is skipped."""
    if "dns_servers" in settings.given:
        return tuple(map(network_around, settings.many("dns_servers", values.address)))
    try:
        text = settings.machine.read_text(RESOLV_CONF)
    except OSError:
        return ()
    servers: list[Network] = []
    for line in text.split("\n"):
        words = line.split()
        if words[:1] != ["nameserver"] or len(words) == 1:
            continue
        try:
            servers.append(network_around(values.address(words[1])))
        except values.BadValue as bad:
            settings.warnings.append(
                f"{RESOLV_CONF}: nameserver {shown(bad.item)} is skipped; expected {bad.expected}"
            )
    return tuple(servers)


def _log_level(settings: Settings) -> Callable[[str], str]:
    given = settings.given.get("log_level")
    return values.log_level_of_variable if given and given.is_variable else values.log_level


def _backend(settings: Settings) -> tuple[str, list[str]]:
    """The backend from --backend, or from the equivalent flags of Istio's program; and a
    note for each of these."""
    asked, notes = "auto", []
    if settings.switch("native_nftables"):
        asked = "nft"
        notes.append(f"{settings.source('native_nftables')} is treated as --backend nft")
    if "force_iptables_binary" in settings.given:
        source = settings.source("force_iptables_binary")
        word = settings.one("force_iptables_binary", _backend_word, "")
        if word:
            asked = word
            notes.append(f"{source} {word} is treated as --backend {word}")
        else:
            notes.append(f"{source} has no effect without the value {' or '.join(_BACKENDS)}")
    return settings.choice("backend", asked, "auto", *_BACKENDS), notes


def _without_effect(settings: Settings) -> Iterator[str]:
    for flag in FLAGS:
        given = settings.given.get(flag.name)
        if given is None:
            continue
        if flag.retired:
            if flag.kind is flag.kind.SWITCH:
                settings.switch(flag.name)
            yield f"{given.source} is a retired flag and has no effect"
        elif flag.name == "cni_mode" and settings.switch(flag.name):
            yield f"{given.source} has no effect"


def _backend_word(item: str) -> str:
    """The backend that --force-iptables-binary names; empty if it is given as a switch."""
    if item in _BACKENDS:
        return item
    try:
        values.switch(item)
    except values.BadValue:
        raise values.BadValue(item, "legacy or nft") from None
    return ""


def _contradictions(config: Config, settings: Settings) -> Iterator[Mistake]:
    """Values that are valid alone but not together, or that are not supported."""
    included, excluded = map(settings.source, ("owner_groups", "owner_groups_excluded"))
    listed = values.items(settings.given["owner_groups"].text) if included else []
    if len(listed) > MAX_OWNER_GROUPS:
        limit = f"expected at most {MAX_OWNER_GROUPS} groups, got {len(listed)}"
        yield Mistake(included, None, limit)
    if "*" in listed and listed != ["*"]:
        yield Mistake(included, "*", "expected * alone, or groups without it")
    if listed not in ([], ["*"]) and config.owner_groups_excluded:
        yield Mistake(excluded, None, f"expected no groups, because {included} names groups too")
    if config.pod is not None and config.network_namespace is not None:
        named = config.network_namespace_source
        yield Mistake("--pod", config.pod, f"cannot be combined with {named}")
    if not config.printed_families:
        yield Mistake("-4", None, "expected only one of -4 and -6; without them, both are printed")
    for name in ("ipv4_only", "ipv6_only"):
        if name in settings.given and len(config.printed_families) == 1 and not config.dry_run:
            hint = "to choose whether IPv6 rules are built, use --ipv6 or --no-ipv6"
            yield Mistake(settings.source(name), None, "expected only with --dry-run", hint)
    if config.mode is Mode.TPROXY and config.tproxy_mark == TPROXY_OUTBOUND_MARK:
        yield Mistake(
            settings.source("tproxy_mark"),
            str(TPROXY_OUTBOUND_MARK),
            "expected another mark in mode TPROXY: packets from the proxy to its pod have this one",
        )
    if settings.old_rules:
        yield from _not_in_1_0(config, settings)


def _environ_of_1_0(settings: Settings) -> Mapping[str, str]:
    """The environment as the script of 1.0 built it: the variables of two files override those of
    the process, and PROXY_UID and PROXY_GID are ignored."""
    environ = dict(settings.environ)
    for variable, name in (
        ("ISTIO_CLUSTER_CONFIG", "cluster.env"),
        ("ISTIO_SIDECAR_CONFIG", "sidecar.env"),
    ):
        path = settings.environ.get(variable) or f"/var/lib/istio/envoy/{name}"
        try:
            text = settings.machine.read_text(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            hint = error.strerror or str(error)
            settings.mistakes.append(Mistake(variable, path, "expected a readable file", hint))
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                environ.update(values.assignment(line))
            except values.BadValue as bad:
                source = f"{path} line {number}"
                settings.mistakes.append(Mistake(source, bad.item, f"expected {bad.expected}"))
    return {name: text for name, text in environ.items() if name not in ("PROXY_UID", "PROXY_GID")}


def _not_in_1_0(config: Config, settings: Settings) -> Iterator[Mistake]:
    expected = "not supported by the rule set 1.0; remove it, or use --ruleset current"
    for name in (
        *("excluded_interfaces", "virtual_interfaces", "tunnel_port"),
        *("outbound_ports", "outbound_excluded_ports", "dns_servers"),
        *("owner_groups", "owner_groups_excluded", "ipv4_loopback"),
    ):
        listed = values.items(settings.given[name].text) if name in settings.given else []
        if listed and (name, listed) != ("owner_groups", ["*"]):
            yield Mistake(settings.source(name), settings.given[name].text, expected)
    for name in ("drop_invalid", "redirect_dns", "capture_all_dns"):
        if getattr(config, name):
            yield Mistake(settings.source(name), None, expected)
