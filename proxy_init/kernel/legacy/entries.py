"""Rules as libiptc holds them: a header, the matches, the target, in one piece of memory.

The header is written and read here, the parts behind it by libxtables, through python-iptables: and
since thousands of rules may have the same parts, each is made or read only once.
python-iptables' habits, and what is done about them:
- It takes and gives networks and interfaces as text, at ten times the price, and for IPv6 masks
  interface names with 0x01 instead of 0xff, so that eth0 would match eth2.
- A rule that is given a match or target looks at all names that this has, 100,000 instructions
  each time: matches and targets here know of a rule that does not know of them.
- A target asks every table of the family whether its name is a chain, and so makes the kernel set
  those tables up; it is shown none.
- `final_check` is needed for targets (REDIRECT gets its range count there), but spoils comments.
- Its idea of an existing match or target is right only for the revision that libxtables knows;
  others are kept as unknown.
"""

from __future__ import annotations

from ...frozen import Frozen
from ...light import os
from ...rules.matches import (
    Destination,
    ExtensionMatch,
    HeaderMatch,
    InInterface,
    Match,
    OutInterface,
    Protocol,
    Source,
    UnknownMatch,
    read_match,
)
from ...rules.model import Family, Rule
from ...rules.networks import Address, network_around
from ...rules.options import Option
from ...rules.targets import VERDICTS, Goto, Jump, Target, UnknownTarget, Verdict, read_target
from ..system.c_types import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


# linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h, which agree where no
# family is named.
_INVERTED = {InInterface: 0x01, OutInterface: 0x02, Source: 0x08, Destination: 0x10, Protocol: 0x40}
_IPV4_FRAGMENT, _IPV4_FRAGMENT_INVERTED = 0x01, 0x20
_IPV6_PROTOCOL = 0x01
_OF_NETWORKS = (Source, Destination)
_GOTO = {Family.V4: 0x02, Family.V6: 0x04}


def _rule_class(iptc: Any, family: Family) -> Any:
    base = iptc.Rule if family is Family.V4 else iptc.ip6tc.Rule6
    return type("RuleOfNoTable", (base,), {"tables": ()})


class EntryWriter:
    """Makes one family's entries of rules; `iptc` is python-iptables."""

    def __init__(self, iptc: Any, family: Family) -> None:
        self._iptc = iptc
        self._xtables = iptc.xtables
        self._family = family
        self._new_rule = _rule_class(iptc, family)
        self._libxtables = iptc.xtables.xtables(self._new_rule().nfproto)  # else made every time
        self._parts: dict[object, bytes] = {}

    def write(self, rule: Rule) -> Any:
        """The memory that holds a rule. Raises IPTCError or XTablesError of python-iptables.

        Rules that differ in nothing but their networks are copies of one.
        """
        networks = [match for match in rule.matches if isinstance(match, _OF_NETWORKS)]
        others = tuple(match for match in rule.matches if not isinstance(match, _OF_NETWORKS))
        kinds = tuple((type(match), match.negated) for match in networks)
        memory = bytearray(self._part((kinds, others, rule.target), self._entry, rule))
        size = 4 if self._family is Family.V4 else 16
        for match in networks:
            # The entry begins with both addresses, and then their masks.
            place = 0 if isinstance(match, Source) else size
            memory[place : place + size] = match.network.network_address.packed
            memory[place + 2 * size : place + 3 * size] = match.network.netmask.packed
        return (ctypes.c_char * len(memory)).from_buffer(memory)

    def _entry(self, rule: Rule) -> bytes:
        """A rule's entry, but for its networks."""
        made = self._new_rule()
        entry, header = made.entry, made.get_ip()
        for match in rule.matches:
            if isinstance(match, HeaderMatch):
                self._write_header(header, match)
        matches = b"".join(
            # What multiport makes of its ports depends on the protocol.
            self._part((match, header.proto), self._match, made, match)
            for match in rule.matches
            if not isinstance(match, HeaderMatch)
        )
        if isinstance(rule.target, Goto):
            header.flags |= _GOTO[self._family]
        target = self._part(rule.target, self._target, made, rule.target)
        entry.target_offset = ctypes.sizeof(entry) + len(matches)
        entry.next_offset = entry.target_offset + len(target)
        return bytes(entry) + matches + target

    def _write_header(self, header: Any, match: HeaderMatch) -> None:
        match match:
            case InInterface(name):
                header.iniface, header.iniface_mask = _interface_bytes(name)
            case OutInterface(name):
                header.outiface, header.outiface_mask = _interface_bytes(name)
            case Protocol(name):
                numbers = {known: number for number, known in self._new_rule.protocols.items()}
                header.proto = numbers[name] if name in numbers else int(name)
                if self._family is Family.V6:
                    header.flags |= _IPV6_PROTOCOL
        if match.negated:
            header.invflags |= _INVERTED[type(match)]

    def _part(self, key: object, make: Callable[..., bytes], *arguments: object) -> bytes:
        if key not in self._parts:
            self._parts[key] = make(*arguments)
        return self._parts[key]

    def _match(self, made: Any, match: ExtensionMatch) -> bytes:
        extension = self._iptc.Match(made, match.name)
        for option in match.options():
            words = ["!", option.value] if option.negated else [option.value]
            extension.set_parameter(option.name, words)
        return bytes(extension.match_buf)

    def _target(self, made: Any, target: Target) -> bytes:
        if isinstance(target, Verdict | Jump | Goto):
            return self._standard_target(target.name)
        extension = self._iptc.Target(made, target.name)
        for option in target.options():
            extension.set_parameter(option.name, option.value)
        if target.options():
            # Not final_check, which first prints all parameters and reads them again.
            extension._final_check()
        return ctypes.string_at(ctypes.addressof(extension.target), extension.size)

    def _standard_target(self, name: str) -> bytes:
        """A verdict or a jump, struct xt_standard_target; libiptc finds out where that leads."""
        header = self._xtables.xt_entry_target()
        size = self._xtables.xt_align(ctypes.sizeof(header) + ctypes.sizeof(ctypes.c_int))
        header.u.user.target_size = size
        header.u.user.name = name.encode()
        return bytes(header).ljust(size, b"\0")


def _interface_bytes(name: str) -> tuple[bytes, bytes]:
    """An interface's name and its mask. A whole name includes its final zero byte. Of a prefix, the
    + stays in the name behind what the mask covers: iptables-save 1.8.11 prints names as they are.
    """
    written = os.fsencode(name)
    return written, b"\xff" * (len(written) + (-1 if name.endswith("+") else 1))


class _Parts(Frozen):
    """What entries have in common that differ in nothing but their networks."""

    not_from: bool
    not_to: bool
    matches: tuple[Match, ...]
    target: Target


class EntryReader:
    """Reads one family's entries; `iptc` is python-iptables."""

    def __init__(self, iptc: Any, family: Family) -> None:
        self._iptc = iptc
        self._xtables = iptc.xtables
        self._family = family
        self._new_rule = _rule_class(iptc, family)
        self._libxtables = iptc.xtables.xtables(self._new_rule().nfproto)  # else made every time
        made = self._new_rule()
        self._header_end = ctypes.sizeof(made.get_ip())
        self._networks_end = 4 * (4 if family is Family.V4 else 16)
        self._matches: dict[bytes, tuple[Match, ...]] = {}
        self._targets: dict[bytes, Target] = {}

    def read(
        self, table: Any, entries: Iterable[Any], known: dict[bytes, _Parts]
    ) -> Iterator[Rule]:
        """The rules that entries of `table` hold.

        `known` is what was read of this table already. It serves thousands of rules that differ in
        nothing but their networks.
        """
        for entry in entries:
            content = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
            # Addresses and masks, the rest of the header, counts and the like, all other parts.
            key = content[self._networks_end : self._header_end] + content[ctypes.sizeof(entry) :]
            parts = known.get(key)
            if parts is None:
                parts = known[key] = self._parts(table, entry)
            yield Rule((*self._networks(content, parts), *parts.matches), parts.target)

    def _parts(self, table: Any, entry: Any) -> _Parts:
        header = entry.ip if self._family is Family.V4 else entry.ipv6
        start, end = ctypes.sizeof(entry), entry.target_offset
        content = ctypes.string_at(ctypes.addressof(entry) + start, end - start)
        if content not in self._matches:
            self._matches[content] = tuple(self._extensions(entry))
        return _Parts(
            bool(header.invflags & _INVERTED[Source]),
            bool(header.invflags & _INVERTED[Destination]),
            (*self._header(header), *self._matches[content]),
            self._target(table, entry, header),
        )

    def _networks(self, content: bytes, parts: _Parts) -> Iterator[Match]:
        size = self._networks_end // 4
        source, destination, source_mask, destination_mask = (
            content[place : place + size] for place in range(0, self._networks_end, size)
        )
        if parts.not_from or any(source_mask):
            yield _network(Source, source, source_mask, parts.not_from)
        if parts.not_to or any(destination_mask):
            yield _network(Destination, destination, destination_mask, parts.not_to)

    def _rule_of(self, entry: Any) -> Any:
        """python-iptables' rule around a part of the entry, which may ask it for the header."""
        made = self._new_rule()
        ctypes.memmove(ctypes.byref(made.entry), ctypes.byref(entry), ctypes.sizeof(entry))
        return made

    def _header(self, header: Any) -> Iterator[Match]:
        inverted = header.invflags

        def negated(kind: type[HeaderMatch]) -> bool:
            return bool(inverted & _INVERTED[kind])

        if header.iniface_mask or negated(InInterface):
            name, mask = header.iniface, header.iniface_mask
            yield _interface(InInterface, name, mask, negated(InInterface))
        if header.outiface_mask or negated(OutInterface):
            name, mask = header.outiface, header.outiface_mask
            yield _interface(OutInterface, name, mask, negated(OutInterface))
        if header.proto:
            name = self._new_rule.protocols.get(header.proto, str(header.proto))
            yield Protocol(name, negated(Protocol))
        if self._family is Family.V4 and header.flags & _IPV4_FRAGMENT:
            option = Option("f", negated=bool(inverted & _IPV4_FRAGMENT_INVERTED))
            yield UnknownMatch("fragment", (option,))

    def _extensions(self, entry: Any) -> Iterator[Match]:
        made = self._rule_of(entry)
        offset = ctypes.sizeof(entry)
        while offset < entry.target_offset:
            raw = self._xtables.xt_entry_match.from_address(ctypes.addressof(entry) + offset)
            name, size = raw.u.user.name.decode(), raw.u.user.match_size
            module = self._libxtables.find_match(name)
            if self._knows(module, raw, size):
                extension = self._iptc.Match(made, match=raw)
                yield read_match(extension.name, tuple(_options(extension)))
            else:
                yield UnknownMatch(name, (Option("revision", str(raw.u.user.revision)),))
            offset += size

    def _target(self, table: Any, entry: Any, header: Any) -> Target:
        jump = table.get_target(entry)
        address = ctypes.addressof(entry) + entry.target_offset
        raw = self._xtables.xt_entry_target.from_address(address)
        name = jump.decode() if jump else raw.u.user.name.decode()
        if header.flags & _GOTO[self._family]:
            return Goto(name)
        if name in VERDICTS:
            return VERDICTS[name]
        if table.is_chain(name):
            return Jump(name)
        if name in ("", "standard"):
            return UnknownTarget("")
        content = ctypes.string_at(address, raw.u.user.target_size)
        if content not in self._targets:
            self._targets[content] = self._extension_target(entry, name, raw)
        return self._targets[content]

    def _extension_target(self, entry: Any, name: str, raw: Any) -> Target:
        module = self._libxtables.find_target(name)
        if not self._knows(module, raw, raw.u.user.target_size):
            return UnknownTarget(name, (Option("revision", str(raw.u.user.revision)),))
        extension = self._iptc.Target(self._rule_of(entry), target=raw)
        return read_target(extension.name, tuple(_options(extension)))

    def _knows(self, module: Any, raw: Any, size: int) -> bool:
        """Whether libxtables' extension is the one that this part of an entry was made with."""
        if not module:
            return False
        expected = self._xtables.xt_align(module[0].size + ctypes.sizeof(raw))
        return bool(module[0].revision == raw.u.user.revision and expected == size)


def _network(
    kind: type[Source] | type[Destination], address: bytes, mask: bytes, negated: bool
) -> Match:
    bits = 8 * len(mask)
    hosts = int.from_bytes(mask) ^ ((1 << bits) - 1)
    if not hosts & (hosts + 1):
        network = network_around(Address(address), bits - hosts.bit_length())
        if network.network_address.packed == address:  # else it has bits that the mask has not
            return kind(network, negated)
    text = f"{Address(address)}/{Address(mask)}"
    return UnknownMatch(kind.__name__, (Option("network", text, negated),))


def _interface(
    kind: type[InInterface] | type[OutInterface], name: bytes, mask: bytes, negated: bool
) -> Match:
    if mask == b"\xff" * (len(name) + 1):
        return kind(os.fsdecode(name), negated)
    if mask == b"\xff" * len(mask) and name[len(mask) :] in (b"", b"+"):
        return kind(os.fsdecode(name[: len(mask)] + b"+"), negated)
    return UnknownMatch(kind.__name__, (Option(os.fsdecode(name), mask.hex(), negated),))


def _options(extension: Any) -> Iterator[Option]:
    """The options that libxtables prints of an extension, as iptables-save would."""
    # Not get_all_parameters, which splits all text as a shell does.
    printed = os.fsdecode(extension._get_saved_buf(extension.rule.get_ip()) or b"")
    words = _quoted_words(printed) if '"' in printed else printed.split()
    options: list[tuple[str, bool, list[str]]] = []
    negated = False
    for word in words:
        if word == "!":
            negated = True
        elif word.startswith("--"):
            options.append((word[2:], negated, []))
            negated = False
        elif options:
            options[-1][2].append(word)
    return (Option(name, " ".join(values), negated) for name, negated, values in options)


def _quoted_words(text: str) -> list[str]:
    import shlex

    # libxtables writes ' as \', which shlex leaves as it is.
    return [word.replace("\\'", "'") for word in shlex.split(text)]
