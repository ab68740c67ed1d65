"""jaxcomp: functional model compression for JAX. Train with views, ship with rewrites, prove that they agree."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxcomp import distill, errors, lowrank, optim, prune, quant, share
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


_LATE = {"augment", "export", "measure", "observe", "pack", "posttrain", "rewrite", "search", "trace"}
"""Packages that are imported when they are first named: a training loop needs none of them to start."""

if TYPE_CHECKING:
    from jaxcomp import augment, export, measure, observe, pack, posttrain, rewrite, search, trace


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return importlib.import_module(f"jaxcomp.{name}")
    raise AttributeError(f"module 'jaxcomp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
