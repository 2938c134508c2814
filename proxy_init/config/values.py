"""Parsers of single values: each function reads one item or raises BadValue.

A plain call uses no regular expressions: compiling one takes as long as reading all its values.
"""

from __future__ import annotations

from ..log import LOG_LEVELS
from ..rules.networks import Address, Network, network_around, read_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HIGHEST_ID = 4294967294  # (uid_t)-1 means "no change" to the kernel, man 2 setresuid
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset("0123456789")
_HEXADECIMAL = _DIGITS | frozenset("abcdefABCDEF")
_NAMES = _LETTERS | _DIGITS | frozenset("_.@\\-")
"""Characters allowed in a user name: those of useradd and a few more (man 8 useradd, CAVEATS)."""


class BadValue(ValueError):
    """An invalid item: what is expected instead, and a hint at what was perhaps meant."""

    def __init__(self, item: str, expected: str, hint: str = "") -> None:
        super().__init__(f"got {item!r}, expected {expected}")
        self.item = item
        self.expected = expected
        self.hint = hint


def items(text: str) -> list[str]:
    """The items of a comma-separated list. Drops spaces and empty items, which injectors make."""
    return [item for item in (part.strip() for part in text.split(",")) if item]


def file_items(text: str) -> list[str]:
    """The items of a list file, separated by commas or line ends; # starts a comment."""
    return [item for line in text.splitlines() for item in items(line.partition("#")[0])]


def _is_digits(text: str) -> bool:
    # str.isdigit takes digits of other scripts too.
    return bool(text) and _DIGITS.issuperset(text)


def _whole_number(item: str, low: int, high: int, expected: str) -> int:
    # int() alone would also take 8_0, +80 and digits of other scripts.
    if not _is_digits(item) or len(item) > 10:
        raise BadValue(item, expected)
    if len(item) > 1 and item.startswith("0"):
        raise BadValue(item, expected, "iptables reads a leading 0 as octal; remove it")
    if not low <= int(item) <= high:
        raise BadValue(item, expected)
    return int(item)


_PORT = "a port from 1 to 65535"


def port(item: str) -> int:
    """A TCP or UDP port."""
    if all(map(_is_digits, item.replace(":", "-").split("-", 1))) and not _is_digits(item):
        raise BadValue(item, _PORT, "ranges are not supported; list each port")
    return _whole_number(item, 1, 65535, _PORT)


def listed_port(item: str) -> int:
    """A port in a list. Istio's check of annotations accepts 0 and leading zeros in lists, so real
    pods have them; port 0 matches no packet."""
    if item.startswith("0") and _is_digits(item):
        return _whole_number(item.lstrip("0") or "0", 0, 65535, _PORT)
    return port(item)


def wait(item: str) -> int:
    """A whole number of seconds."""
    return _whole_number(item, 0, 86400, "whole seconds from 0 to 86400")


def interval(item: str) -> float:
    """The seconds between two readings; may have a fraction."""
    whole, point, fraction = item.partition(".")
    plain = _is_digits(whole) and (not point or _is_digits(fraction))
    if not plain or len(whole) > 5 or len(fraction) > 3 or not 0.1 <= float(item) <= 86400:
        raise BadValue(item, "seconds from 0.1 to 86400")
    return float(item)


def route_table(item: str) -> int:
    """A routing table other than those of the system (253 to 255, linux/rtnetlink.h)."""
    expected = "a routing table from 1 to 4294967295, except 253 to 255, which the system uses"
    number = _whole_number(item, 1, 2**32 - 1, expected)
    if 253 <= number <= 255:
        raise BadValue(item, expected)
    return number


def mark(item: str) -> int:
    """A fwmark other than 0, which would match all unmarked packets."""
    digits = item[2:] if item[:2] in ("0x", "0X") else ""
    if 1 <= len(digits) <= 8 and _HEXADECIMAL.issuperset(digits) and int(digits, 16):
        return int(digits, 16)
    return _whole_number(item, 1, 2**32 - 1, "a fwmark from 1 to 4294967295, decimal or 0x…")


def any_mark(item: str) -> int:
    """The fwmark of a packet; 0 for an unmarked one."""
    return 0 if item == "0" else mark(item)


def number_of_owner(item: str) -> int:
    """A uid or gid, by number."""
    return _whole_number(item, 0, HIGHEST_ID, f"a number from 0 to {HIGHEST_ID}")


def is_name(item: str) -> bool:
    """Whether `item` is a user or group name, not a number or other text."""
    first, rest = item[:1], item[1:].removesuffix("$")
    return first in _LETTERS | {"_"} and _NAMES.issuperset(rest)


def owner(item: str, kind: str, look_up: Callable[[str], int | None]) -> int:
    """A uid or gid, by number or name; `kind` is user or group."""
    identifier = "uid" if kind == "user" else "gid"
    expected = f"a {identifier} from 0 to {HIGHEST_ID}, or the name of a {kind}"
    if not is_name(item):
        return _whole_number(item, 0, HIGHEST_ID, expected)
    number = look_up(item)
    if number is None:
        raise BadValue(item, expected, f"there is no such {kind} on this system")
    return number


def address(item: str) -> Address:
    """An address without a zone. An IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2) is read as the
    IPv4 address that it holds."""
    try:
        found = read_address(item)
    except ValueError:
        raise BadValue(item, "an IPv4 or IPv6 address without a zone") from None
    return found.ipv4_mapped or found


def cidr(item: str) -> tuple[Network, Address]:
    """A network with its host bits cleared, and the address as it was written.

    Networks inside ::ffff:0:0/96 are read as IPv4.
    """
    expected = "an IPv4 or IPv6 CIDR such as 10.0.0.0/8 or fd00::/8, or an address"
    text, slash, length = item.partition("/")
    spelled, zone, _ = text.partition("%")
    try:
        written = read_address(spelled)
    except ValueError:
        raise BadValue(item, expected, _cidr_hint(item)) from None
    if zone:
        raise BadValue(item, expected, "remove the %zone")
    longest = written.max_prefixlen
    if not slash:
        length = str(longest)
    plain = _is_digits(length) and len(length) <= 3 and length == str(int(length))
    if not plain or int(length) > longest:
        raise BadValue(item, expected, f"the prefix length is a number from 0 to {longest}")
    found, bits = written.ipv4_mapped or written, int(length)
    if found.version != written.version and bits >= longest - found.max_prefixlen:
        return network_around(found, bits - longest + found.max_prefixlen), found
    return network_around(written, bits), found


def _cidr_hint(item: str) -> str:
    if item == "*":
        return "* is allowed only alone, and not in every list"
    labels = item.split(".")
    letters = _LETTERS | _DIGITS | {"-"}
    if item[:1] in _LETTERS and all(label and letters.issuperset(label) for label in labels):
        return "host names are not resolved"
    return ""


def assignment(line: str) -> dict[str, str]:
    """The variable that a line of an environment file sets: NAME=value, with or without quotes.

    Nothing is expanded or executed. Empty lines and comments set no variable.
    """
    text = line.strip().removeprefix("export ").strip()
    if not text or text.startswith("#"):
        return {}
    name, equals, value = text.partition("=")
    if not equals or not (name.isascii() and name.isidentifier()):
        raise BadValue(line, "NAME=value, an empty line or a comment")
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return {name: value}


def pod(item: str) -> str:
    """A pod, as NAMESPACE/NAME (RFC 1123 names, as Kubernetes has them)."""
    import re

    label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if not re.fullmatch(rf"{label}/{label}(\.{label})*", item):
        raise BadValue(item, "a pod as NAMESPACE/NAME, such as default/web-0")
    return item


def interface(item: str) -> str:
    """An interface's name, or a prefix that ends in + (net/core/dev.c, dev_valid_name)."""
    name = item.encode("utf-8", "surrogateescape")
    # The kernel's isspace() follows Latin-1, so it rejects the byte 0xa0, too.
    refused = bytes(byte for byte in name if byte in b" \t\n\v\f\r\xa0/:\"'\\\0")
    expected = "an interface name of 1 to 15 bytes without space, quote, / : or \\"
    if refused or not 1 <= len(name) <= 15 or item in (".", ".."):
        raise BadValue(item, expected)
    if item[0] in "-!":
        raise BadValue(item, expected + ", not starting with - or !")
    try:
        item.encode()
    except UnicodeEncodeError:
        raise BadValue(item, expected + ", in UTF-8") from None
    return item


_SWITCH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_SWITCH_OF_VARIABLE = {
    **_SWITCH,
    **{"on": True, "yes": True, "y": True, "enabled": True},
    **{"off": False, "no": False, "n": False, "disabled": False},
}


def switch(item: str) -> bool:
    """1, t, true, 0, f or false in any case, like Go's strconv.ParseBool."""
    if item.lower() not in _SWITCH:
        raise BadValue(item, "true or false (or 1, t, 0, f)")
    return _SWITCH[item.lower()]


def switch_of_variable(item: str) -> bool:
    """As `switch`, with other usual words: the variable may have been set for another program."""
    if item.lower() not in _SWITCH_OF_VARIABLE:
        raise BadValue(item, "true or false (or 1, 0, t, f, yes, no, on, off)")
    return _SWITCH_OF_VARIABLE[item.lower()]


def dns_switch_of_variable(item: str) -> bool:
    """As `switch_of_variable`, and ALL, which enabled DNS capture in Istio 1.7."""
    return item.lower() == "all" or switch_of_variable(item)


def choice(item: str, *allowed: str) -> str:
    """One of the allowed words."""
    if item not in allowed:
        hint = f"did you mean {item.upper()}?" if item.upper() in allowed else ""
        hint = f"did you mean {item.lower()}?" if item.lower() in allowed else hint
        raise BadValue(item, " or ".join(allowed), hint)
    return item


_UNITS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3, "h": 3600e3}


def duration(item: str) -> int:
    """A duration as Go writes it, in milliseconds: at least 1, at most a day."""
    import re  # loading it takes 1 ms, and few calls have a duration

    part = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h)"
    milliseconds = 0.0
    if re.fullmatch(f"(?:{part})+", item):
        milliseconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(part, item))
    if not 1 <= milliseconds <= 86400e3:
        raise BadValue(item, "a duration from 1ms to 24h, such as 5s, 500ms or 1m30s")
    return round(milliseconds)


def log_level(text: str) -> str:
    """The level in `level` or in Istio's `scope:level,…`, of which only our scopes count."""
    ours = "info"
    for item in items(text):
        scope, colon, level = item.rpartition(":")
        if level not in LOG_LEVELS or (colon and not scope):
            raise BadValue(item, f"one of {', '.join(LOG_LEVELS)}, or scope:level")
        if scope in ("", "default", "all"):
            ours = level
    return ours


_LEVEL_SYNONYMS = {
    "trace": "debug",
    "verbose": "debug",
    "notice": "info",
    "information": "info",
    "warning": "warn",
    "err": "error",
    "critical": "fatal",
    "crit": "fatal",
    "panic": "fatal",
    "off": "none",
}


def log_level_of_variable(text: str) -> str:
    """As `log_level`, in any case and with the names that other readers of LOG_LEVEL use."""
    levels = (item.lower().rpartition(":") for item in items(text))
    return log_level(
        ",".join(
            scope + colon + _LEVEL_SYNONYMS.get(level, level) for scope, colon, level in levels
        )
    )
