"""`counters`: the packet and byte counts of each rule in the kernel, with its reason."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..analysis.counters import Counted, Standing, changes
from ..analysis.kernel_rules import TableKind
from ..config import values
from ..config.flags import Flag
from ..kernel.counters import readings
from ..kernel.enforce import chosen, wanted_rulesets
from ..log import logger
from ..rules.counts import Count
from ..rules.iptables_save import rule_text
from ..rules.wording import matches_in_words, printable, target_in_words
from .inferred import with_flags_of_the_rules
from .session import print_text, session
from .terminal import on_screen

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

OPTIONS = (
    Flag(
        "watch",
        "--watch",
        "",
        "",
        "SECONDS",
        "Show what has changed, each time so many seconds have passed; Ctrl-C ends it.",
        check=values.interval,
    ),
)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the rules with their counts; with --watch, print what changes until Ctrl-C."""
    with session(words, environ, OPTIONS) as config:
        config, found = with_flags_of_the_rules(config)
        choice, rulesets = chosen(config, wanted_rulesets(config), write=False)
        if found and found.is_of_others:
            rulesets = found.rulesets
        choice.load()  # before forking the workers, which share it
        as_json = config.output == "json"
        left = found is not None and found.kind is TableKind.IPTABLES_NFT
        with readings(choice.tasks(rulesets), left) as kernel:
            lines = kernel.now()
            if "watch" not in config.own:
                print_text(_json(lines, indent=2) if as_json else _text(lines))
                return 0
            seconds = values.interval(config.own["watch"].text.strip())
            logger.info("watching %d rules every %g s; press Ctrl-C to stop", len(lines), seconds)
            try:
                while True:
                    time.sleep(seconds)
                    before, lines = lines, kernel.now()
                    changed = tuple(changes(before, lines))
                    if changed:
                        print_text(_json(changed) if as_json else f"{_time()}\n{_text(changed)}\n")
            except KeyboardInterrupt:
                return 0


def _time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _json(lines: Iterable[Counted], indent: int | None = None) -> str:
    """The shape of schemas/counters.json."""
    return json.dumps({"time": _time(), "rules": list(map(_fields, lines))}, indent=indent) + "\n"


def _fields(line: Counted) -> dict[str, object]:
    count, more = line.count, line.more
    return {
        "family": line.title,
        "table": line.table,
        "chain": line.chain,
        "number": line.number,
        "rule": rule_text(line.rule).strip(),
        "standing": line.standing.value,
        "why": line.why,
        "packets": count.packets if count else None,
        "bytes": count.bytes if count else None,
        "more_packets": more.packets if more else None,
        "more_bytes": more.bytes if more else None,
    }


def _text(lines: Iterable[Counted]) -> str:
    return on_screen(*_tables(lines))


def _tables(lines: Iterable[Counted]) -> Iterator["RenderableType"]:
    """A table for each chain."""
    chains: dict[tuple[str, str, str], list[Counted]] = {}
    for line in lines:
        chains.setdefault((line.title, line.table, line.chain), []).append(line)
    for (family, table, chain), group in chains.items():
        yield _table(f"{family} {table} {printable(chain)}", group)


def _table(heading: str, lines: Iterable[Counted]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name, width in (("", 3), ("packets", 9), ("bytes", 11)):
        table.add_column(name, justify="right", min_width=width)
    table.add_column(Text(heading))
    for line in lines:
        number = str(line.number or "")
        count = line.more or line.count
        table.add_row(number, *_counts(line, count), _description(line))
    return table


def _counts(line: Counted, count: Count | None) -> Iterator["Text"]:
    from rich.text import Text

    sign = "+" if line.more else ""
    if line.standing in (Standing.MISSING, Standing.GONE) or count is None:
        yield Text(line.standing.value, "bold red")
        yield Text("")
    elif count.packets:
        yield Text(f"{sign}{count.packets:,}")
        yield Text(f"{sign}{count.bytes:,}")
    else:
        yield Text("never", "yellow")
        yield Text("")


def _description(line: Counted) -> "Text":
    from rich.text import Text

    words = Text(f"{matches_in_words(line.rule)}: {target_in_words(line.rule.target)}")
    if line.why:
        words.append(f"\n{printable(line.why)}", "italic")
    if line.standing is Standing.NOT_WANTED:
        words.append("\nnot wanted by these flags", "bold red")
    return words
