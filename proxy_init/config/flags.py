"""The flags: one table of them, and how a command line is split by it.

The table is the only list of flags: parsing, the environment, messages and `--help` read it.
"""

from collections.abc import Callable
from enum import Enum

from ..frozen import frozen


class FlagKind(Enum):
    """What follows a flag."""

    VALUE = "one value"
    SWITCH = "nothing, or =true or =false"
    BACKEND = "nothing, or legacy or nft"


@frozen
class Flag:
    """One row of the table; words in `spellings`, `variables` and `opposite` stand blank by blank.

    Of several variables that are set, the last counts. `opposite` is the spelling that switches it
    off. A command's own option has a `check`, which raises BadValue for a value that it does not
    take.
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
FLAGS: tuple[Flag, ...] = (
    Flag("outbound_port", "-p --envoy-port", "ENVOY_PORT", "15001", "PORT",
         "Port that captured outbound TCP goes to."),
    Flag("inbound_port", "-z --inbound-capture-port", "INBOUND_CAPTURE_PORT", "as -p", "PORT",
         "Port that captured inbound TCP goes to."),
    Flag("tunnel_port", "-e --inbound-tunnel-port", "INBOUND_TUNNEL_PORT", "15008", "PORT",
         "Inbound tunnel port, not captured in mode REDIRECT."),
    Flag("proxy_uids", "-u --proxy-uid", "PROXY_UID", "uid of $ENVOY_USER, or 1337", "USERS",
         "The proxy's users; what they send is not captured."),
    Flag("proxy_gids", "-g --proxy-gid", "PROXY_GID", "as -u", "GROUPS",
         "The proxy's groups; what they send is not captured."),
    Flag("mode", "-m --istio-inbound-interception-mode", "ISTIO_INBOUND_INTERCEPTION_MODE",
         "REDIRECT", "MODE", "REDIRECT, TPROXY, or NONE to do nothing."),
    Flag("inbound_ports", "-b --istio-inbound-ports", "ISTIO_INBOUND_PORTS", "none", "PORTS",
         "Inbound ports to capture: a list, or * for all."),
    Flag("inbound_excluded_ports", "-d --istio-local-exclude-ports", "ISTIO_LOCAL_EXCLUDE_PORTS",
         "none", "PORTS", "Inbound ports not to capture; counts only with -b '*'."),
    Flag("outbound_networks", "-i --istio-service-cidr", "ISTIO_SERVICE_CIDR", "none", "CIDRS",
         "Destinations to capture outbound: a list, or * for all."),
    Flag("outbound_excluded_networks", "-x --istio-service-exclude-cidr",
         "ISTIO_SERVICE_EXCLUDE_CIDR", "none", "CIDRS", "Destinations never captured outbound."),
    Flag("outbound_ports", "-q --istio-outbound-ports", "ISTIO_OUTBOUND_PORTS", "none", "PORTS",
         "Outbound ports to capture whatever the address."),
    Flag("outbound_excluded_ports", "-o --istio-local-outbound-ports-exclude",
         "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "none", "PORTS",
         "Outbound ports never captured (TCP and UDP)."),
    Flag("excluded_interfaces", "-c --istio-exclude-interfaces", "ISTIO_EXCLUDE_INTERFACES",
         "none", "NAMES", "Interfaces left alone in both directions."),
    Flag("virtual_interfaces", "-k --kube-virt-interfaces", "KUBE_VIRT_INTERFACES",
         "none", "NAMES", "Interfaces whose inbound traffic counts as outbound."),
    Flag("tproxy_mark", "-t --istio-inbound-tproxy-mark", "ISTIO_INBOUND_TPROXY_MARK",
         "1337", "MARK", "fwmark of packets for a transparent proxy."),
    Flag("tproxy_route_table", "-r --istio-inbound-tproxy-route-table",
         "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "133", "TABLE", "Policy routing table for that mark."),
    _switch("dry_run", "-n --dry-run", "DRY_RUN",
            "Print what would be in the kernel as iptables-save text; touch nothing."),
    _switch("ipv4_only", "-4 --ipv4-only", "", "With --dry-run: print the IPv4 part only."),
    _switch("ipv6_only", "-6 --ipv6-only", "", "With --dry-run: print the IPv6 part only."),
    _switch("ipv6", "--ipv6", "ENABLE_INBOUND_IPV6", "Build IPv6 rules, or don't.",
            "by the pod's addresses", "--no-ipv6"),
    _switch("dual_stack", "--dual-stack", "DUAL_STACK ISTIO_DUAL_STACK",
            "Build IPv6 rules if any global address is IPv6, not only if the first is."),
    _switch("redirect_dns", "--redirect-dns", "REDIRECT_DNS ISTIO_META_DNS_CAPTURE",
            "Capture DNS to the servers of /etc/resolv.conf, to port 15053."),
    _switch("capture_all_dns", "--capture-all-dns", "CAPTURE_ALL_DNS",
            "With --redirect-dns: capture all of port 53."),
    _switch("drop_invalid", "--drop-invalid", "DROP_INVALID INVALID_DROP",
            "Drop packets that connection tracking calls INVALID."),
    Flag("network_namespace", "--network-namespace", "NETWORK_NAMESPACE", "own", "PATH",
         "Network namespace to work in: a path, or a name of ip netns."),
    _switch("reconcile", "--reconcile", "RECONCILE",
            "Replace rules of ours that differ, or show the difference and fail.",
            "on", "--no-reconcile"),
    _switch("force_apply", "--force-apply", "FORCE_APPLY", "Write even where nothing differs."),
    _switch("cleanup_only", "--cleanup-only", "CLEANUP_ONLY", "Same as the command clean."),
    _switch("skip_rule_apply", "--skip-rule-apply", "SKIP_RULE_APPLY",
            "Write nothing; with --run-validation only probe."),
    _switch("run_validation", "--run-validation", "RUN_VALIDATION", "Validate after applying."),
    Flag("probe_port", "--iptables-probe-port", "IPTABLES_PROBE_PORT", "15002", "PORT",
         "Port that validation probes."),
    Flag("probe_timeout", "--probe-timeout", "PROBE_TIMEOUT", "5s", "DURATION",
         "How long its probes may take: 5s, 500ms, 1m30s."),
    _switch("cni_mode", "--cni-mode", "CNI_MODE", "Accepted, has no effect."),
    _switch("native_nftables", "--native-nftables", "NATIVE_NFTABLES", "Same as --backend nft."),
    Flag("force_iptables_binary", "--force-iptables-binary", "FORCE_IPTABLES_BINARY", "off",
         "[legacy|nft]", "Same as --backend with that word.", FlagKind.BACKEND),
    Flag("ruleset", "--ruleset", "PROXY_INIT_RULESET", "current", "NAME",
         "Which rules: current, or 1.0, those of the image of Istio 1.0.0."),
    _switch("comments", "--comments", "PROXY_INIT_COMMENTS",
            "Write each rule's reason into the kernel as a comment."),
    Flag("log_level", "--log_output_level --log-level", "LOG_LEVEL", "info", "LEVEL",
         "debug, info, warn, error, fatal, none, or a list of scope:level."),
    _switch("log_as_json", "--log_as_json", "LOG_AS_JSON", "One JSON object a log line."),
    Flag("backend", "--backend", "PROXY_INIT_BACKEND", "auto", "NAME",
         "How rules get into the kernel: auto, legacy or nft."),
    Flag("cidr_tree", "--cidr-tree", "PROXY_INIT_CIDR_TREE", "auto", "WHEN",
         "Whether a long list of CIDRs is held as a tree of chains: auto, never or always."),
    Flag("wait", "--wait", "PROXY_INIT_WAIT", "30", "SECONDS",
         "How long to wait for the xtables lock."),
    _switch("strict", "--strict", "PROXY_INIT_STRICT", "Warnings about the flags are errors."),
    Flag("output", "-O --output", "", "text", "FORMAT", "text or json, where a command reports."),
    _switch("version", "--version", "", "Print the version.", ""),
    _switch("help", "-h --help", "", "Print this.", ""),
    _retired("-f --restore-format", FlagKind.SWITCH),
    _retired("--iptables-trace-logging", FlagKind.SWITCH),
    _retired("--host-nsenter-exec", FlagKind.SWITCH),
    _retired("--output-paths"),
    _retired("--iptables-version"),
    _retired("--log_target"),
    _retired("--log_caller"),
    _retired("--log_stacktrace_level"),
    _retired("--vklog"),
)
# fmt: on

# fmt: off
ADVISORY = frozenset({
    "force_apply", "run_validation", "probe_port", "probe_timeout", "cni_mode", "native_nftables",
    "force_iptables_binary", "comments", "log_level", "log_as_json", "backend", "cidr_tree", "wait",
    "strict",
})
# fmt: on
"""Flags that do not decide what is captured, by name. Where the variable of one holds nothing that
the flag takes, it is another program's: the pod starts with the default, and a warning."""
