"""`graph`: draws the rules."""

from collections.abc import Mapping, Sequence

from .packet_options import PACKET, given_packet
from .picture import chosen_format, drawn, format_option, picture
from .pod_network import LIVE, SAVED
from .session import print_text, session

_PACKET_NAMES = {flag.name for flag in PACKET}
OPTIONS = (format_option("tree", "Format of the drawing."), LIVE, SAVED, *PACKET)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the picture in the requested format; --live alone needs privilege."""
    with session(words, environ, OPTIONS) as config:
        kind = chosen_format(config, "tree")
        trip = given_packet(config) if _PACKET_NAMES & config.own.keys() else None
        print_text(drawn(picture(config, trip), kind))
    return 0
