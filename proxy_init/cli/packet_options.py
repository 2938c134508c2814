"""The options that describe a packet, for the commands that walk one through rules."""

import re
from collections.abc import Callable
from typing import Any

from ..analysis.packet_walk import Direction, Packet
from ..config import values
from ..config.config import Config
from ..config.flags import Flag
from ..errors import BadCall, Mistake
from ..kernel.routing.addresses import addresses, is_global
from ..rules.networks import Address, read_address

SOME_PORT = 40000
POD = {4: "192.0.2.2", 6: "2001:db8::2"}
CLIENT = {4: "192.0.2.1", 6: "2001:db8::1"}


def endpoint(item: str) -> tuple[Address, int]:
    """ADDRESS:PORT, an IPv6 address in brackets. Raises BadValue."""
    expected = "ADDRESS:PORT, such as 198.51.100.7:80 or [2001:db8::7]:80"
    matched = re.fullmatch(r"\[([^\]]+)\]:([0-9]+)|([^:]+):([0-9]+)", item)
    try:
        if matched:
            address = values.address(matched[1] or matched[3])
            return address, values.port(matched[2] or matched[4])
    except values.BadValue:
        pass
    raise values.BadValue(item, expected)


def source(item: str) -> tuple[Address, int]:
    """ADDRESS or ADDRESS:PORT. Raises BadValue."""
    try:
        return values.address(item), SOME_PORT
    except values.BadValue:
        return endpoint(item)


def address_list(text: str) -> frozenset[Address]:
    """A comma list of addresses. Raises BadValue."""
    return frozenset(values.cidr(item)[1] for item in values.items(text))


def _among(*allowed: str) -> Callable[[str], str]:
    return lambda item: values.choice(item, *allowed)


# fmt: off
PACKET: tuple[Flag, ...] = (
    Flag("to", "--to", "", "", "ADDR:PORT", "Destination of the packet; required.", check=endpoint),
    Flag("sender", "--from", "", "the pod, or a client", "ADDR[:PORT]", "Source of the packet.",
         check=source),
    Flag("direction", "--direction", "", "out", "[out|in]",
         "A process in the pod sends it, or it arrives from outside.", check=_among("out", "in")),
    Flag("protocol", "--protocol", "", "tcp", "[tcp|udp]", "Transport protocol of the packet.",
         check=_among("tcp", "udp")),
    Flag("uid", "--uid", "", "1000", "UID", "User that owns the sending socket.",
         check=values.number_of_owner),
    Flag("gid", "--gid", "", "1000", "GID", "Group that owns the sending socket.",
         check=values.number_of_owner),
    Flag("pod_address", "--pod-address", "", "this namespace's", "ADDR",
         "Address of the pod; may be repeated.", check=address_list, repeats=True),
    Flag("interface", "--interface", "", "lo for the pod's own addresses, else eth0", "NAME",
         "Network interface on which it leaves or arrives.", check=values.interface),
    Flag("mark", "--mark", "", "0", "MARK", "fwmark of the packet.", check=values.any_mark),
    Flag("state", "--state", "", "NEW", "[NEW|ESTABLISHED|RELATED|INVALID]",
         "conntrack state of its connection.",
         check=_among("NEW", "ESTABLISHED", "RELATED", "INVALID")),
)
# fmt: on
_CHECKS = {flag.name: flag.check for flag in PACKET}


def _given(config: Config, name: str, default: Any) -> Any:
    """The value of one of the command's own options."""
    if name not in config.own:
        return default
    text = config.own[name].text.strip()
    check = _CHECKS[name]
    return check(text) if check else text


def given_packet(config: Config) -> tuple[Packet, frozenset[Address]]:
    """The packet that the options describe, and the pod's own addresses."""
    if "to" not in config.own:
        hint = "such as --to 198.51.100.7:80"
        raise BadCall([Mistake("--to", None, "expected the destination of the packet", hint)])
    destination, port = _given(config, "to", None)
    own: frozenset[Address] = _given(config, "pod_address", None) or frozenset(addresses())
    direction = Direction(_given(config, "direction", "out"))
    local = destination.is_loopback or destination in own
    usual = _usual_sender(direction, destination, own, local)
    sender, sender_port = _given(config, "sender", (usual, SOME_PORT))
    if sender.version != destination.version:
        expected = f"expected an IPv{destination.version} address, like that of --to"
        raise BadCall([Mistake("--from", str(sender), expected)])
    return (
        Packet(
            direction,
            _given(config, "protocol", "tcp"),
            sender,
            sender_port,
            destination,
            port,
            _given(config, "interface", "lo" if local and direction is Direction.OUT else "eth0"),
            _given(config, "uid", 1000),
            _given(config, "gid", 1000),
            _given(config, "mark", 0),
            _given(config, "state", "NEW"),
        ),
        own,
    )


def _usual_sender(
    direction: Direction, destination: Address, own: frozenset[Address], local: bool
) -> Address:
    """The default source. Inbound: a client outside the pod. Outbound: the destination if that is
    local, or else the first global address of the pod."""
    if direction is Direction.IN:
        return read_address(CLIENT[destination.version])
    if local:
        return destination
    mine = [a for a in own if a.version == destination.version and is_global(a)]
    return min(mine, key=int) if mine else read_address(POD[destination.version])
