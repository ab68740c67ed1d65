"""Which combinations of compressor, container, dtype and execution are run: all pairs, not the full product."""

from typing import NamedTuple

from .compressors import COMPRESSORS, COSTLY
from .containers import CONTAINERS, PLAIN
from .executions import EXECUTIONS

DTYPES = ("float32", "bfloat16", "float16")


class Case(NamedTuple):
    compressor: str
    container: str
    dtype: str
    execution: str


def views() -> list[Case]:
    """Every compressor on every container, eagerly. The dtype goes round."""
    cases = []
    for i, compressor in enumerate(COMPRESSORS):
        for j, container in enumerate(CONTAINERS):
            turn = j if compressor.startswith(COSTLY) else i + j  # few shapes and dtypes to compile for
            cases.append(Case(compressor, container, DTYPES[turn % 3], "eager"))
    return cases


def runs() -> list[Case]:
    """Every compressor in every execution. Container and dtype go round."""
    cases = []
    for i, compressor in enumerate(COMPRESSORS):
        names = PLAIN if compressor.startswith(COSTLY) else tuple(CONTAINERS)
        for j, execution in enumerate(EXECUTIONS):
            cases.append(Case(compressor, names[(i + j) % len(names)], DTYPES[(i + 2 * j) % 3], execution))
    return cases
