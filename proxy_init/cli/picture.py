"""Pictures for commands: of the rules that a call is about, in the format that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..analysis.packet_walk import (
    Packet,
    PodNetwork,
    alternatives,
    either_text,
    sentence,
    walk,
)
from ..config import values
from ..config.config import Config
from ..config.flags import Flag
from ..frozen import replace
from ..graph.draw import drawing_of, wanted_picture
from ..graph.drawing import Picture
from ..graph.met import Met
from ..graph.subject import Subject, of_kernel, of_pod_network, of_ruleset
from ..kernel.enforce import wanted_rulesets
from ..rules.networks import Address
from .inferred import with_flags_of_the_rules
from .pod_network import (
    SAVED,
    is_live,
    kernel_pod_network,
    kernel_rules,
    live_rules,
    pod_network_of,
    saved_pod_networks,
)
from .terminal import on_screen

if TYPE_CHECKING:
    from ..kernel.backend import Backend

_FORMATS = ("tree", "mermaid", "dot", "svg")


def format_option(default: str, help: str) -> Flag:
    """The option --format; a `default` that is no format of pictures may be given, too."""
    words = tuple(dict.fromkeys((default, *_FORMATS)))

    def check(item: str) -> str:
        return values.choice(item, *words)

    return Flag("format", "--format", "", default, f"[{'|'.join(words)}]", help, check=check)


def chosen_format(config: Config, default: str) -> str:
    """The word behind --format."""
    if "format" not in config.own:
        return default
    return values.choice(config.own["format"].text.strip(), default, *_FORMATS)


def picture(config: Config, trip: tuple[Packet, frozenset[Address]] | None) -> Picture:
    """The rules that a call is about; and, of a packet in a pod with these addresses, its way.

    Raises BadCall, NodeCannot or ApplyFailed.
    """
    live = is_live(config)
    if trip is None and not live and SAVED.name not in config.own:
        return wanted_picture(wanted_rulesets(config))
    packet, own = trip or (None, frozenset())
    scenes = list(_scenes(config, own, packet))
    if packet is None:
        title = "the rules in the kernel, and what they have matched" if live else "the saved rules"
        drawings = tuple(drawing_of(subject) for subject, _ in scenes if subject.tables)
        return Picture(title if drawings else "no rules", drawings)
    ((subject, pod_network),) = scenes
    result = walk(pod_network, packet)
    notes = [either_text(packet, *each) for each in alternatives(pod_network, packet)]
    drawing = drawing_of(replace(subject, notes=(*subject.notes, *notes)), Met(packet, result))
    return Picture(sentence(packet, result), (drawing,))


def _scenes(
    config: Config, own: frozenset[Address], packet: Packet | None
) -> Iterator[tuple[Subject, PodNetwork]]:
    """The rules of each family, or of the packet's: as they are drawn, and as they are walked."""
    backends: Sequence[Backend] = ()
    kind = None
    if is_live(config):
        config, there = with_flags_of_the_rules(config)
        backends, rulesets = live_rules(config, there)
        kind = there.kind if there else None
    else:
        rulesets = wanted_rulesets(config)
    saved = None
    if SAVED.name in config.own:
        saved = saved_pod_networks(config.own[SAVED.name].text, rulesets, own)
    for wanted in rulesets:
        if packet and packet.family is not wanted.family:
            continue
        if saved is not None:
            of_file = saved.get(wanted.family, PodNetwork({}, own))
            yield of_pod_network(wanted.family, of_file), of_file
        elif backends:
            found = kernel_rules(wanted, *backends)
            subject = of_kernel(wanted, found.tables, found.policy_routes, kind)
            yield subject, kernel_pod_network(found, own)
        else:
            yield of_ruleset(wanted), pod_network_of(wanted, own)


def drawn(picture: Picture, kind: str) -> str:
    """The picture in one of the formats. Raises NodeCannot or ApplyFailed."""
    if kind == "mermaid":
        from ..graph.mermaid import mermaid_text

        return mermaid_text(picture)
    if kind == "tree":
        from ..graph.tree import tree

        return on_screen(tree(picture))
    from ..graph.dot import dot_text, svg_text

    return dot_text(picture) if kind == "dot" else svg_text(picture)
