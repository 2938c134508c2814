"""The flags: one table of them, and how a command line is split by it.

The table is the only list of flags: parsing, the environment, messages and `--help` read it.

Splitting follows pflag, the library of the program that ours replaces, because manifests were
written for it: `--name value`, `--name=value`, `-x value`, `-xvalue`, `-x=value`; a switch takes a
value only behind `=`; a value may look like a flag. Python's own parsers differ in each of these
points and stop at the first mistake; ours goes on, so that all can be reported together.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from .errors import Mistake
from .frozen import frozen


class Takes(Enum):
    """What follows a flag."""

    VALUE = "one value"
    SWITCH = "nothing, or =true or =false"
    BACKEND = "nothing, or legacy or nft"


@frozen
class Flag:
    """One row of the table; words in `spellings`, `variables` and `opposite` stand blank by blank.

    The first variable that is set counts. `opposite` is the spelling that switches it off. A
    command's own option has a `check`, which raises BadValue for a value that it does not take.
    """

    name: str
    spellings: str
    variables: str
    default: str
    metavar: str
    help: str
    takes: Takes = Takes.VALUE
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
    return Flag(name, spellings, variables, default, "", help, Takes.SWITCH, opposite)


def _retired(spellings: str, takes: Takes = Takes.VALUE) -> Flag:
    return Flag(spellings, spellings, "", "", "", "", takes)


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
         "[legacy|nft]", "Same as --backend with that word.", Takes.BACKEND),
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
    _retired("-f --restore-format", Takes.SWITCH),
    _retired("--iptables-trace-logging", Takes.SWITCH),
    _retired("--host-nsenter-exec", Takes.SWITCH),
    _retired("--output-paths"),
    _retired("--iptables-version"),
    _retired("--log_target"),
    _retired("--log_caller"),
    _retired("--log_stacktrace_level"),
    _retired("--vklog"),
)
# fmt: on


def _by_spelling(flags: Sequence[Flag]) -> Mapping[str, Flag]:
    return {word: flag for flag in flags for word in f"{flag.spellings} {flag.opposite}".split()}


_BY_SPELLING = _by_spelling(FLAGS)


@frozen
class Given:
    """A value as it was given, and where: the flag as typed, or the variable.

    `opposite` says that it was the spelling that switches off.
    """

    source: str
    text: str
    opposite: bool = False


@frozen
class CommandLine:
    """What a command line says: the last of each flag, by the flag's name, and what is wrong."""

    given: Mapping[str, Given]
    mistakes: tuple[Mistake, ...] = ()


def split(words: Sequence[str], extra: Sequence[Flag] = ()) -> CommandLine:
    """Split the words behind the command's name into flags and their values.

    `extra` are the options that only this command has.
    """
    known = {**_BY_SPELLING, **_by_spelling(extra)}
    given: dict[str, Given] = {}
    mistakes: list[Mistake] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        spelling, value = _spelling_and_value(word)
        flag = known.get(spelling)
        if flag is None:
            mistakes.append(_stranger(word, spelling, known))
            if value is None and word.startswith("-"):
                _drop_value(rest)
            continue
        if value is None and flag.takes is Takes.VALUE:
            if not rest:
                mistakes.append(Mistake(spelling, None, "expected a value behind it"))
                continue
            value = rest.pop()
            if _lacks_value(value, known):
                _drop_value(rest)
        elif value is None and flag.takes is Takes.BACKEND and rest and rest[-1] in BACKENDS:
            value = rest.pop()
        elif value and flag.takes is Takes.SWITCH and word[1] != "-" and word[2] != "=":
            # Switches may share a dash: -nf is -n -f.
            rest.append(f"-{value}")
            value = None
        text = "true" if value is None else value
        if flag.repeats and flag.name in given:
            text = f"{given[flag.name].text},{text}"
        given[flag.name] = Given(spelling, text, spelling == flag.opposite)
    return CommandLine(given, tuple(mistakes))


def _lacks_value(word: str, known: Mapping[str, Flag]) -> bool:
    """Whether `word`, taken for another flag's value, is itself a flag whose value comes next."""
    spelling, value = _spelling_and_value(word)
    flag = known.get(spelling)
    return flag is not None and flag.takes is Takes.VALUE and value is None


def _drop_value(rest: list[str]) -> None:
    """Leave out what belongs to a flag that is a mistake already, so that it is told once."""
    if rest and not rest[-1].startswith("-"):
        rest.pop()


BACKENDS = ("legacy", "nft", "")


def _spelling_and_value(word: str) -> tuple[str, str | None]:
    if word.startswith("--"):
        spelling, equals, value = word.partition("=")
        return spelling, value if equals else None
    if word.startswith("-") and len(word) > 2:
        return word[:2], word[2:].removeprefix("=")
    return word, None


def _stranger(word: str, spelling: str, known: Mapping[str, Flag]) -> Mistake:
    if not word.startswith("-"):
        return Mistake(
            "command line",
            word,
            "expected a flag, or in front of all flags a command that this version has",
            "a list is one word: without blanks, or quoted",
        )
    from difflib import get_close_matches

    close = get_close_matches(spelling, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "proxy-init --help lists them"
    return Mistake("command line", spelling, "expected a flag of proxy-init", hint)


def is_flag(word: str, extra: Sequence[Flag] = ()) -> bool:
    """Whether `word` reads as one of the flags, alone or with its value."""
    return _spelling_and_value(word)[0] in {**_BY_SPELLING, **_by_spelling(extra)}


def merge(
    line: CommandLine, environ: Mapping[str, str], extra: Sequence[Flag] = ()
) -> Mapping[str, Given]:
    """What was given, by the flag's name: a flag beats its variables, and an empty text, which
    real manifests pass, counts as not given."""
    merged: dict[str, Given] = {}
    for flag in (*FLAGS, *extra):
        variables = (Given(name, environ.get(name, "")) for name in flag.variables.split())
        for given in (line.given.get(flag.name), *variables):
            if given is not None and given.text.strip():
                merged[flag.name] = given
                break
    return merged
