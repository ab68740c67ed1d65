"""jaxcomp: functional model compression for JAX. Train with views, ship with rewrites, prove that they agree."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxcomp import errors
from jaxcomp.combine import chain, every, identity, partition, straight_through
from jaxcomp.core.errors import JaxcompError as JaxcompError  # of jc.errors: what to catch to catch them all
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
    "augment",
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
    "share",
    "stacked",
    "straight_through",
    "trace",
    "with_learned",
]


_LATE = frozenset(__all__) - globals().keys()
"""The packages: each is imported when it is first named, since nobody needs them all to start."""

if TYPE_CHECKING:
    from jaxcomp import (
        augment,
        distill,
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
        share,
        trace,
    )


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return importlib.import_module(f"jaxcomp.{name}")
    raise AttributeError(f"module 'jaxcomp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
