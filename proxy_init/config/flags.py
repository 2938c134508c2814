"""The table of flags.

It is the only list of them: parsing, the environment, messages, `--help`, shell completion and
docs/reference read it.
"""

from __future__ import annotations

from ..frozen import Frozen
from ..light import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class FlagKind(Enum):
    """What follows a flag."""

    VALUE = "one value"
    SWITCH = "nothing, or =true or =false"
    BACKEND = "nothing, or legacy or nft"


class Flag(Frozen):
    """One row of the table. `spellings` and `variables` are words with blanks between them.

    Of several variables that are set, the last counts. `opposite` is the spelling that switches it
    off. A command's own option has a `check`, which raises BadValue for a value that it does not
    take. A `metavar` such as [text|json] lists all words that the flag takes.
    """

    name: str
    spellings: str
    variables: str
    default: str
    metavar: str
    help: str
    kind: FlagKind = FlagKind.VALUE
    opposite: str = ""
    check: Callable[[str], object] | None = None
    repeats: bool = False
    """Given several times, it holds them all, as a comma list."""
    may_be_empty: bool = False
    """An empty value does not stand for the default."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it takes, if it takes only a few: shells complete them."""
        return tuple(self.metavar[1:-1].split("|")) if self.metavar.startswith("[") else ()

    @property
    def retired(self) -> bool:
        """Whether manifests still carry it although it has no effect."""
        return not self.help


def _switch(
    name: str, spellings: str, variables: str, help: str, default: str = "off", opposite: str = ""
) -> Flag:
    return Flag(name, spellings, variables, default, "", help, FlagKind.SWITCH, opposite)


def _retired(spellings: str, kind: FlagKind = FlagKind.VALUE) -> Flag:
    return Flag(spellings, spellings, "", "", "", "", kind)


# fmt: off
FLAG_GROUPS: Mapping[str, tuple[Flag, ...]] = {
    "What is captured": (
        Flag("outbound_networks", "-i --istio-service-cidr", "ISTIO_SERVICE_CIDR", "none", "CIDRS",
             "Outbound destinations to capture, or * for all."),
        Flag("outbound_excluded_networks", "-x --istio-service-exclude-cidr",
             "ISTIO_SERVICE_EXCLUDE_CIDR", "none", "CIDRS",
             "Outbound destinations that are not captured."),
        Flag("outbound_ports", "-q --istio-outbound-ports", "ISTIO_OUTBOUND_PORTS", "none", "PORTS",
             "Outbound ports to capture, whatever the destination."),
        Flag("outbound_excluded_ports", "-o --istio-local-outbound-ports-exclude",
             "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "none", "PORTS",
             "Outbound ports that are not captured, TCP and UDP."),
        Flag("inbound_ports", "-b --istio-inbound-ports", "ISTIO_INBOUND_PORTS", "none", "PORTS",
             "Inbound ports to capture, or * for all."),
        Flag("inbound_excluded_ports", "-d --istio-local-exclude-ports",
             "ISTIO_LOCAL_EXCLUDE_PORTS", "none", "PORTS",
             "Inbound ports that are not captured; only with -b '*'."),
        Flag("mode", "-m --istio-inbound-interception-mode", "ISTIO_INBOUND_INTERCEPTION_MODE",
             "REDIRECT", "[REDIRECT|TPROXY|NONE]",
             "How inbound connections reach the proxy. NONE writes no rules."),
        Flag("excluded_interfaces", "-c --istio-exclude-interfaces", "ISTIO_EXCLUDE_INTERFACES",
             "none", "NAMES", "Network interfaces whose traffic is not captured."),
        Flag("virtual_interfaces", "-k --kube-virt-interfaces", "KUBE_VIRT_INTERFACES",
             "none", "NAMES",
             "Interfaces of virtual machines: what arrives there is captured as outbound."),
        Flag("owner_groups", "--istio-outbound-owner-groups", "ISTIO_OUTBOUND_OWNER_GROUPS",
             "*", "GROUPS",
             "Groups whose outbound traffic is captured, at most 64, or * for all."),
        Flag("owner_groups_excluded", "--istio-outbound-owner-groups-exclude",
             "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "none", "GROUPS",
             "Groups whose outbound traffic is not captured."),
        Flag("ipv4_loopback", "--istio-outbound-ipv4-loopback-cidr",
             "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/32", "CIDR",
             "Destinations inside 127.0.0.0/8 that are not captured."),
        _switch("drop_invalid", "--drop-invalid", "DROP_INVALID INVALID_DROP",
                "Drop packets whose conntrack state is INVALID."),
    ),
    "The proxy": (
        Flag("outbound_port", "-p --envoy-port", "ENVOY_PORT", "15001", "PORT",
             "Port of the proxy that outbound TCP connections are redirected to."),
        Flag("inbound_port", "-z --inbound-capture-port", "INBOUND_CAPTURE_PORT", "the -p port",
             "PORT", "Port of the proxy that inbound TCP connections are redirected to."),
        Flag("tunnel_port", "-e --inbound-tunnel-port", "INBOUND_TUNNEL_PORT", "15008", "PORT",
             "Port of the proxy for inbound tunnels; not captured in mode REDIRECT."),
        Flag("proxy_uids", "-u --proxy-uid", "PROXY_UID", "uid of $ENVOY_USER, or 1337", "USERS",
             "Users that the proxy runs as; their traffic is not captured."),
        Flag("proxy_gids", "-g --proxy-gid", "PROXY_GID", "as -u", "GROUPS",
             "Groups that the proxy runs as; their traffic is not captured."),
    ),
    "TPROXY": (
        Flag("tproxy_mark", "-t --istio-inbound-tproxy-mark", "ISTIO_INBOUND_TPROXY_MARK",
             "1337", "MARK", "fwmark of packets for the proxy in mode TPROXY."),
        Flag("tproxy_route_table", "-r --istio-inbound-tproxy-route-table",
             "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "133", "TABLE",
             "Routing table of the policy route for that fwmark."),
    ),
    "DNS": (
        _switch("redirect_dns", "--redirect-dns", "REDIRECT_DNS ISTIO_META_DNS_CAPTURE",
                "Redirect DNS queries for the servers in /etc/resolv.conf to port 15053."),
        _switch("capture_all_dns", "--capture-all-dns", "CAPTURE_ALL_DNS",
                "With --redirect-dns: redirect DNS queries for all servers."),
        Flag("dns_servers", "--dns-servers", "", "those in /etc/resolv.conf", "ADDRESSES",
             "With --redirect-dns: the servers whose queries are redirected."),
    ),
    "IPv6": (
        _switch("ipv6", "--ipv6", "ENABLE_INBOUND_IPV6", "Build rules for IPv6, or don't.",
                "whether the pod's first global address is IPv6", "--no-ipv6"),
        _switch("dual_stack", "--dual-stack", "DUAL_STACK ISTIO_DUAL_STACK",
                "Build rules for IPv6 if any global address of the pod is IPv6."),
    ),
    "Applying": (
        Flag("network_namespace", "--network-namespace", "NETWORK_NAMESPACE", "its own", "PATH",
             "Network namespace to work in: a path, or a name of ip netns."),
        Flag("pod", "--pod", "", "its own", "NAMESPACE/NAME",
             "On a node: work in the network namespace of this pod; asks crictl for it."),
        Flag("backend", "--backend", "PROXY_INIT_BACKEND", "auto", "[auto|legacy|nft]",
             "Write to the legacy tables (x_tables) or to nf_tables."),
        _switch("native_nftables", "--native-nftables", "NATIVE_NFTABLES",
                "Same as --backend nft."),
        Flag("force_iptables_binary", "--force-iptables-binary", "FORCE_IPTABLES_BINARY", "off",
             "[legacy|nft]", "Same as --backend with that word.", FlagKind.BACKEND),
        Flag("ruleset", "--ruleset", "PROXY_INIT_RULESET", "current", "[current|1.0]",
             "The rules of current sidecars, or those of the image of Istio 1.0.0."),
        _switch("reconcile", "--reconcile", "RECONCILE",
                "Replace our rules where they differ; or show the difference, change nothing "
                "and fail.", "on", "--no-reconcile"),
        _switch("force_apply", "--force-apply", "FORCE_APPLY",
                "Write the rules even if nothing differs."),
        _switch("cleanup_only", "--cleanup-only", "CLEANUP_ONLY",
                "Remove our rules, as the command clean does."),
        _switch("skip_rule_apply", "--skip-rule-apply", "SKIP_RULE_APPLY",
                "Write nothing; with --run-validation, only send the probes."),
        Flag("cidr_tree", "--cidr-tree", "PROXY_INIT_CIDR_TREE", "auto", "[auto|never|always]",
             "Hold the CIDRs of -i and -x in a tree of chains; auto: if there are more than 500."),
        _switch("comments", "--comments", "PROXY_INIT_COMMENTS",
                "Add each rule's reason as a comment."),
        Flag("wait", "--wait", "PROXY_INIT_WAIT", "30", "SECONDS",
             "How long to wait for the xtables lock."),
        _switch("strict", "--strict", "PROXY_INIT_STRICT",
                "Treat warnings about flags as errors."),
    ),
    "Validation": (
        _switch("run_validation", "--run-validation", "RUN_VALIDATION",
                "Send probes through the rules after applying them."),
        Flag("probe_port", "--iptables-probe-port", "IPTABLES_PROBE_PORT", "15002", "PORT",
             "Port that probes are sent to."),
        Flag("probe_timeout", "--probe-timeout", "PROBE_TIMEOUT", "5s", "DURATION",
             "How long the probes may take, such as 5s, 500ms or 1m30s."),
    ),
    "Output": (
        _switch("dry_run", "-n --dry-run", "DRY_RUN",
                "Print the rules as iptables-save text; touch nothing."),
        _switch("ipv4_only", "-4 --ipv4-only", "", "With --dry-run: print only the IPv4 rules."),
        _switch("ipv6_only", "-6 --ipv6-only", "", "With --dry-run: print only the IPv6 rules."),
        Flag("output", "-O --output", "", "text", "[text|json]", "What a command prints."),
        Flag("log_level", "--log_output_level --log-level", "LOG_LEVEL", "info", "LEVEL",
             "debug, info, warn, error, fatal or none; or a list of scope:level."),
        _switch("log_as_json", "--log_as_json", "LOG_AS_JSON", "Log one JSON object a line."),
    ),
    "Help": (
        _switch("version", "--version", "", "Print the version.", ""),
        _switch("help", "-h --help", "", "Print this help.", ""),
    ),
    "Retired: accepted, without effect": (
        _switch("cni_mode", "--cni-mode", "CNI_MODE", "Has no effect."),
        _retired("-f --restore-format", FlagKind.SWITCH),
        _retired("--iptables-trace-logging", FlagKind.SWITCH),
        _retired("--host-nsenter-exec", FlagKind.SWITCH),
        _retired("--output-paths"),
        _retired("--iptables-version"),
        _retired("--log_target"),
        _retired("--log_caller"),
        _retired("--log_stacktrace_level"),
        _retired("--vklog"),
    ),
}
"""The flags, by the heading under which --help and the reference list them."""
# fmt: on

FLAGS: tuple[Flag, ...] = tuple(flag for flags in FLAG_GROUPS.values() for flag in flags)

_ABOUT_RULES = ("What is captured", "The proxy", "TPROXY", "DNS", "IPv6")
ABOUT_RULES = frozenset(
    [flag.name for heading in _ABOUT_RULES for flag in FLAG_GROUPS[heading]]
    + ["ruleset", "cidr_tree", "comments"]
)
"""Flags that say which rules there must be, by name."""

# fmt: off
ADVISORY = frozenset({
    "force_apply", "run_validation", "probe_port", "probe_timeout", "cni_mode", "native_nftables",
    "force_iptables_binary", "comments", "log_level", "log_as_json", "backend", "cidr_tree", "wait",
    "strict",
})
# fmt: on
"""Flags that do not decide what is captured, by name. Where the variable of one holds nothing that
the flag takes, it is another program's: the pod starts with the default, and a warning."""
