"""What the text of a compiled module says."""

import math
import re

NAMES = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
COLLECTIVE = re.compile(rf" = (?P<shape>.+?) (?P<name>{NAMES})(-start)?\(")


def collectives(text: str) -> list[str]:
    """``name[elements]`` of every collective in a compiled module, sorted."""
    found = []
    for match in COLLECTIVE.finditer(text):
        arrays = re.findall(r"\w+\[([\d,]*)\]", match["shape"])
        found.append((match["name"], sum(math.prod(map(int, filter(None, dims.split(",")))) for dims in arrays)))
    return [f"{name}[{elements}]" for name, elements in sorted(found)]


def aliases(text: str) -> int:
    """How many outputs of a compiled module take the memory of an argument."""
    return len(re.findall(r"\{[\d, ]*\}: \(\d+, \{\}, (?:may|must)-alias\)", text.splitlines()[0]))


def cycles(text: str) -> int:
    """The cycles that the TPU compiler expects of a module's fusions and copies, all together."""
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
