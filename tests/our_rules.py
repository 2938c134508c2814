"""What somebody else does to our rules, with the program iptables, or with nft.

In our tables of nf_tables a rule of both families stands once. What iptables would do to the rules
of one family is done there to that family alone: the rule becomes one of the other.
"""

import re

from proxy_init.rules.inet_tables import TABLES, hook_of, name_in_kernel
from proxy_init.rules.iptables_save_parser import read_table
from proxy_init.rules.model import Chain, Family, Ruleset, Table
from proxy_init.rules.nftables_text import rulesets_text
from tests.foreign import run
from tests.running import backend_under_test, is_of_other_family, program

_FAMILY = re.compile(r"^meta nfproto ipv[46] ")


def change_rules(name: str, family: Family, *words: str) -> None:
    """Change one of our tables in a namespace as iptables does with these words, `-t TABLE` and one
    of -A, -I, -R, -D, -F and -N. Rules are spelled as iptables-save spells them."""
    if backend_under_test() == "legacy":
        run(name, program(family), *words)
        return
    _, table, action, chain, *rest = words
    place = int(rest.pop(0)) if rest and rest[0].isdigit() else 0
    rule = _in_nft(family, table, " ".join(rest)) if rest else ""
    at = f"inet {TABLES[table]} {name_in_kernel(chain)}"
    if action in ("-N", "-A"):
        hook = hook_of(table, chain)
        base = f"type {hook.kind} hook {chain.lower()} priority {hook.priority};" if hook else ""
        run(name, "nft", f"add table inet {TABLES[table]}; add chain {at} {{ {base} }}")
    held = _held(name, family, at)
    handles = list(held)
    if rule and action == "-D":
        place = next(
            number
            for number, text in enumerate(held.values(), 1)
            if _FAMILY.sub("", text) == _FAMILY.sub("", rule)
        )
    if action == "-A":
        run(name, "nft", f"add rule {at} {rule}")
    elif action in ("-I", "-R"):
        run(name, "nft", f"insert rule {at} handle {handles[max(place, 1) - 1]} {rule}")
    if action in ("-R", "-D"):
        _leave_to_the_other(name, family, at, handles[place - 1], held[handles[place - 1]])
    elif action == "-F":
        for handle, text in held.items():
            _leave_to_the_other(name, family, at, handle, text)


def _leave_to_the_other(name: str, family: Family, at: str, handle: str, text: str) -> None:
    (other,) = (each for each in Family if each is not family)
    if is_of_other_family(text, other):
        run(name, "nft", f"delete rule {at} handle {handle}")
    else:
        run(name, "nft", f"replace rule {at} handle {handle} meta nfproto ipv{other.value} {text}")


def _held(name: str, family: Family, at: str) -> dict[str, str]:
    """The rules of a chain that are for a family, by their handles."""
    listed = run(name, "nft", "-a", "--stateless", "list", "chain", *at.split())
    rules = re.findall(r"^\t\t(?!type )(.+) # handle (\d+)$", listed, re.M)
    return {handle: text for text, handle in rules if not is_of_other_family(text, family)}


def _in_nft(family: Family, table: str, rule: str) -> str:
    chains = "".join(f":{name} - [0:0]\n" for name in ["X", *re.findall(r"ISTIO_\w+", rule)])
    read, _ = read_table(table, f"{chains}-A X {rule}\n")
    found = read.chain("X")
    assert found
    ruleset = Ruleset(family, (Table(table, (Chain("X", found.rules),)),))
    (text,) = re.findall(r"^\t\t(.+)$", rulesets_text([ruleset]), re.M)
    return str(text).replace(" packets 0 bytes 0", "")
