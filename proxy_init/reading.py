"""From flags, variables and the files that they name to a Config, or to all mistakes of the call.

It knows nothing of the kernel, and of the machine just what `machine.Machine` offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network

from . import values
from .config import (
    EVERYTHING,
    OLD_RULES,
    TPROXY_OUTBOUND_MARK,
    Config,
    Everything,
    Mode,
    Networks,
)
from .errors import BadCall, Mistake
from .flags import FLAGS, Flag, merge, split
from .frozen import replace
from .matches import Network
from .model import Family
from .reader import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .machine import Machine

RESOLV_CONF = "/etc/resolv.conf"
MOST_OWNER_GROUPS = 64
_BACKENDS = ("legacy", "nft")


def read_config(
    argv: Sequence[str],
    environ: Mapping[str, str],
    machine: Machine,
    extra: Sequence[Flag] = (),
) -> Config:
    """Check the words behind the command's name, and the environment.

    `extra` are the options that only this command has.
    Raises BadCall with every mistake of the call. With --strict, warnings are mistakes too.
    """
    line = split(argv, extra)
    reader = Reader(merge(line, environ, extra), environ, machine, extra)
    if reader.old_rules:
        environ = _environ_of_1_0(reader)
        reader = Reader(merge(line, environ, extra), environ, machine, extra, reader.mistakes)
    reader.mistakes.extend(line.mistakes)
    config = replace(_read(reader), own=reader.own())
    reader.mistakes.extend(_contradictions(config, reader))
    if not reader.mistakes:
        from .advice import warnings_of

        config = replace(config, warnings=tuple(warnings_of(config, reader.given)))
        reader.mistakes.extend(_strictly(config))
    if reader.mistakes:
        raise BadCall(reader.mistakes)
    return config


def _strictly(config: Config) -> Iterator[Mistake]:
    if config.strict:
        yield from (Mistake("--strict", None, warning) for warning in config.warnings)


def _read(reader: Reader) -> Config:
    outbound_port = reader.one("outbound_port", values.port, 15001)
    proxy_uids = reader.many("proxy_uids", reader.user) or _default_uids(reader)
    modes = [mode.value for mode in Mode]
    mode = reader.one("mode", lambda item: values.choice(item, *modes), "REDIRECT")
    captured = reader.everything_or("outbound_networks", reader.cidr)
    redirect_dns = reader.switch("redirect_dns")
    groups = reader.variable_items("ISTIO_OUTBOUND_OWNER_GROUPS", _group_or_everything(reader))
    ipv4_only, ipv6_only = reader.switch("ipv4_only"), reader.switch("ipv6_only")
    return Config(
        outbound_port=outbound_port,
        inbound_port=reader.one("inbound_port", values.port, outbound_port),
        tunnel_port=reader.one("tunnel_port", values.port, 15008),
        proxy_uids=proxy_uids,
        proxy_gids=reader.many("proxy_gids", reader.group) or proxy_uids,
        mode=Mode(mode),
        inbound_ports=reader.everything_or("inbound_ports", values.port),
        inbound_excluded_ports=reader.many("inbound_excluded_ports", values.port, file=True),
        outbound_networks=(
            EVERYTHING if captured is EVERYTHING else tuple(network for network, _ in captured)
        ),
        captures_loopback=(
            captured is not EVERYTHING and any(address.is_loopback for _, address in captured)
        ),
        outbound_excluded_networks=tuple(
            network
            for network, _ in reader.many("outbound_excluded_networks", reader.cidr, file=True)
        ),
        outbound_ports=reader.many("outbound_ports", values.port, file=True),
        outbound_excluded_ports=reader.many("outbound_excluded_ports", values.port, file=True),
        excluded_interfaces=reader.many("excluded_interfaces", values.interface),
        virtual_interfaces=reader.many("virtual_interfaces", values.interface),
        owner_groups=(
            EVERYTHING
            if groups in ((), (EVERYTHING,))
            else tuple(group for group in groups if group is not EVERYTHING)
        ),
        owner_groups_excluded=reader.variable_items(
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", reader.group
        ),
        ipv4_loopback=reader.variable(
            "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", _ipv4_loopback, IPv4Network("127.0.0.1/32")
        ),
        tproxy_mark=reader.one("tproxy_mark", values.mark, 1337),
        tproxy_route_table=reader.one("tproxy_route_table", values.route_table, 133),
        redirect_dns=redirect_dns,
        capture_all_dns=reader.switch("capture_all_dns"),
        dns_servers=_dns_servers(reader) if redirect_dns else (),
        drop_invalid=reader.switch("drop_invalid"),
        ipv6=_ipv6(reader),
        dual_stack=reader.switch("dual_stack"),
        dry_run=reader.switch("dry_run"),
        printed_families=tuple(
            family
            for family, other_only in ((Family.V4, ipv6_only), (Family.V6, ipv4_only))
            if not other_only
        ),
        network_namespace=reader.one("network_namespace", str, None),
        network_namespace_source=reader.source("network_namespace"),
        reconcile=reader.switch("reconcile", default=True),
        force_apply=reader.switch("force_apply"),
        cleanup_only=reader.switch("cleanup_only"),
        skip_rule_apply=reader.switch("skip_rule_apply"),
        run_validation=reader.switch("run_validation"),
        probe_port=reader.one("probe_port", values.port, 15002),
        probe_timeout=reader.one("probe_timeout", values.duration, 5000),
        ruleset=reader.one(
            "ruleset", lambda item: values.choice(item, "current", OLD_RULES), "current"
        ),
        comments=reader.switch("comments"),
        log_level=reader.one("log_level", values.log_level, "info"),
        log_as_json=reader.switch("log_as_json"),
        backend=_backend(reader),
        cidr_tree=reader.one(
            "cidr_tree", lambda item: values.choice(item, "auto", "never", "always"), "auto"
        ),
        wait=reader.one("wait", values.wait, 30),
        lock_file=reader.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock",
        strict=reader.switch("strict"),
        output=reader.one("output", lambda item: values.choice(item, "text", "json"), "text"),
        notes=tuple(_notes(reader)),
    )


def _default_uids(reader: Reader) -> tuple[int, ...]:
    uid = reader.machine.user_id(reader.environ.get("ENVOY_USER") or "istio-proxy")
    proxy = 1337 if uid is None else uid
    # 1.0 exempted root for its certificate agent.
    return (proxy, 0) if reader.old_rules else (proxy,)


def _ipv6(reader: Reader) -> bool | None:
    given = reader.given.get("ipv6")
    if reader.old_rules:
        # Its script took any word in the variable for yes, even "false".
        return given is not None and (not given.source.startswith("-") or reader.switch("ipv6"))
    return None if given is None else reader.switch("ipv6")


def _group_or_everything(reader: Reader) -> Callable[[str], int | Everything]:
    return lambda item: EVERYTHING if item == "*" else reader.group(item)


def _ipv4_loopback(item: str) -> IPv4Network:
    expected = "a CIDR inside 127.0.0.0/8"
    network, _ = values.cidr(item)
    if not isinstance(network, IPv4Network) or not network.subnet_of(IPv4Network("127.0.0.0/8")):
        raise values.BadValue(item, expected)
    return network


def _dns_servers(reader: Reader) -> Networks:
    """The `nameserver` lines of resolv.conf, man 5 resolv.conf."""
    try:
        text = reader.machine.read_text(RESOLV_CONF)
    except OSError:
        return ()
    servers: list[Network] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            try:
                servers.append(values.cidr(words[1].partition("%")[0])[0])
            except values.BadValue:
                continue
    return tuple(servers)


def _backend(reader: Reader) -> str:
    """As --backend says, or the flags of the program that ours replaces which say the same."""
    asked = "auto"
    if reader.switch("native_nftables"):
        asked = "nft"
    word: str = reader.one("force_iptables_binary", _backend_word, "")
    if word in _BACKENDS:
        asked = word
    return reader.one("backend", lambda item: values.choice(item, "auto", *_BACKENDS), asked)


def _notes(reader: Reader) -> Iterator[str]:
    for flag in FLAGS:
        given = reader.given.get(flag.name)
        if given is None:
            continue
        if flag.retired:
            if flag.takes is flag.takes.SWITCH:
                reader.switch(flag.name)
            yield f"{given.source} is a retired flag and has no effect"
        elif flag.name == "cni_mode" and reader.switch(flag.name):
            yield f"{given.source} has no effect"
        elif flag.name == "native_nftables" and reader.switch(flag.name):
            yield f"{given.source} is taken for --backend nft"
        elif flag.name == "force_iptables_binary":
            word = given.text.strip()
            if word in _BACKENDS:
                yield f"{given.source} {word} is taken for --backend {word}"
            else:
                yield f"{given.source} has no effect without {' or '.join(_BACKENDS)}"


def _backend_word(item: str) -> str:
    if item not in _BACKENDS:
        try:
            values.switch(item)
        except values.BadValue:
            raise values.BadValue(item, "legacy or nft") from None
    return item


def _contradictions(config: Config, reader: Reader) -> Iterator[Mistake]:
    """Values that are good alone and wrong together, or that this version cannot serve."""
    environ = reader.environ
    included, excluded = "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"
    listed = values.items(environ.get(included, ""))
    if len(listed) > MOST_OWNER_GROUPS:
        limit = f"expected at most {MOST_OWNER_GROUPS} groups, got {len(listed)}"
        yield Mistake(included, None, limit)
    if "*" in listed and listed != ["*"]:
        yield Mistake(included, "*", "expected * alone, or groups without it")
    if listed not in ([], ["*"]) and values.items(environ.get(excluded, "")):
        yield Mistake(excluded, None, f"expected only one list, but {included} names groups too")
    if not config.printed_families:
        yield Mistake("-4", None, "expected one of -4 and -6: without either, both are printed")
    for name in ("ipv4_only", "ipv6_only"):
        if name in reader.given and len(config.printed_families) == 1 and not config.dry_run:
            hint = "--ipv6 and --no-ipv6 say which families rules are built for"
            yield Mistake(reader.source(name), None, "expected only with --dry-run", hint)
    if config.mode is Mode.TPROXY and config.tproxy_mark == TPROXY_OUTBOUND_MARK:
        yield Mistake(
            reader.source("tproxy_mark"),
            str(TPROXY_OUTBOUND_MARK),
            "expected another mark in mode TPROXY: this one marks what the proxy sends to its pod",
        )
    if reader.old_rules:
        yield from _not_in_1_0(config, reader)


def _environ_of_1_0(reader: Reader) -> Mapping[str, str]:
    """The environment as the script of 1.0 made it: the variables of two files beat those given to
    the process, and PROXY_UID and PROXY_GID do not count."""
    environ = dict(reader.environ)
    for variable, name in (
        ("ISTIO_CLUSTER_CONFIG", "cluster.env"),
        ("ISTIO_SIDECAR_CONFIG", "sidecar.env"),
    ):
        path = reader.environ.get(variable) or f"/var/lib/istio/envoy/{name}"
        try:
            text = reader.machine.read_text(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            hint = error.strerror or str(error)
            reader.mistakes.append(Mistake(variable, path, "expected a readable file", hint))
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                environ.update(values.assignment(line))
            except values.BadValue as bad:
                source = f"{path} line {number}"
                reader.mistakes.append(Mistake(source, bad.item, f"expected {bad.expected}"))
    return {name: text for name, text in environ.items() if name not in ("PROXY_UID", "PROXY_GID")}


def _not_in_1_0(config: Config, reader: Reader) -> Iterator[Mistake]:
    expected = "the rule set 1.0 has nothing of the kind; leave it out, or use --ruleset current"
    for name in (
        *("excluded_interfaces", "virtual_interfaces", "tunnel_port"),
        *("outbound_ports", "outbound_excluded_ports"),
    ):
        if name in reader.given:
            yield Mistake(reader.source(name), reader.given[name].text, expected)
    for name in ("drop_invalid", "redirect_dns", "capture_all_dns"):
        if getattr(config, name):
            yield Mistake(reader.source(name), None, expected)
    for variable in (
        *("ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"),
        "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
    ):
        if values.items(reader.environ.get(variable, "")) not in ([], ["*"]):
            yield Mistake(variable, reader.environ[variable], expected)
