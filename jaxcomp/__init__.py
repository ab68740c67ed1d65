"""jaxcomp: functional model compression for JAX. Train with views, ship with rewrites, prove that they agree."""

from jaxcomp import (
    distill,
    errors,
    export,
    lowrank,
    measure,
    observe,
    optim,
    pack,
    posttrain,
    prune,
    quant,
    rewrite,
    search,
    trace,
)
from jaxcomp.combine import chain, every, identity, partition, straight_through
from jaxcomp.core.learned import learned, with_learned
from jaxcomp.core.stacked import stacked
from jaxcomp.core.types import Compressor, Grid, Learned, Note

__version__ = "0.1.0"

__all__ = [
    "Compressor",
    "Grid",
    "Learned",
    "Note",
    "__version__",
    "chain",
    "distill",
    "errors",
    "every",
    "export",
    "identity",
    "learned",
    "lowrank",
    "measure",
    "observe",
    "optim",
    "pack",
    "partition",
    "posttrain",
    "prune",
    "quant",
    "rewrite",
    "search",
    "stacked",
    "straight_through",
    "trace",
    "with_learned",
]


def __dir__() -> list[str]:
    return __all__
