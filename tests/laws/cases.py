"""Which combinations of compressor, container, dtype and execution are run: all pairs, not the full product."""

import itertools
from typing import NamedTuple

from .compressors import COMPRESSORS, COSTLY, SMALL
from .containers import CONTAINERS, PLAIN
from .executions import EXECUTIONS

DTYPES = ("float32", "bfloat16", "float16")


class Case(NamedTuple):
    compressor: str
    container: str
    dtype: str
    execution: str


SMALLER = [name for name in COMPRESSORS if name.startswith(SMALL)]
LARGER = [name for name in COMPRESSORS if name not in SMALLER]


def views() -> list[Case]:
    """Every compressor on four containers, eagerly: those that its executions leave out are among them."""
    others = [container for container in CONTAINERS if container not in PLAIN]
    chosen = dict.fromkeys(SMALLER, others)
    for i, name in enumerate(LARGER):
        chosen[name] = [list(CONTAINERS)[(i + j) % len(CONTAINERS)] for j in range(-2, 2)]
    return [Case(name, own, dtype(name, own), "eager") for name in COMPRESSORS for own in chosen[name]]


def runs() -> list[Case]:
    """Every compressor in every execution; the containers go round."""
    cases = []
    for names, containers in ((SMALLER, PLAIN), (LARGER, tuple(CONTAINERS))):
        for (i, name), (j, execution) in itertools.product(enumerate(names), enumerate(EXECUTIONS)):
            container = containers[(i + j) % len(containers)]
            cases.append(Case(name, container, dtype(name, container), execution))
    return cases


def dtype(compressor: str, container: str) -> str:
    """Each compressor meets float16 on one small container, and float32 and bfloat16 in turn on the others."""
    i, j = list(COMPRESSORS).index(compressor), list(CONTAINERS).index(container)
    costly = compressor.startswith(COSTLY)
    if compressor == "identity":  # which costs nothing, and completes the pairs
        return DTYPES[2 if j > 1 else j]
    if container == ("no-elements" if costly else ("no-elements", "dict", "frozen-dict")[i % 3]):
        return "float16"
    return DTYPES[(j if costly else i + j) % 2]
