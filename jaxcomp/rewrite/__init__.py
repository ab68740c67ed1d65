"""Rewrites: new functions of smaller parameters that compute what the views computed."""

from jaxcomp.rewrite.channels.choose import choose
from jaxcomp.rewrite.channels.dead_channels import remove_dead
from jaxcomp.rewrite.channels.importance import importance
from jaxcomp.rewrite.channels.shrink import Shrunk, mask, shrink
from jaxcomp.rewrite.folding.batch_norm import fold_batch_norm
from jaxcomp.rewrite.folding.weights import fold_weights
from jaxcomp.rewrite.lowrank.factorize import factorize
from jaxcomp.rewrite.quant.calibrate import calibrate
from jaxcomp.rewrite.quant.qat import QuantizedTraining, qat
from jaxcomp.rewrite.quant.quantize import fake_quantize, quantize
from jaxcomp.rewrite.quant.scheme import Scheme
from jaxcomp.rewrite.restore import load, restore, save
from jaxcomp.rewrite.rewritten import Decision, Rewritten
from jaxcomp.trace.packed.leaf import Packed, densify

__all__ = [
    "Decision",
    "Packed",
    "QuantizedTraining",
    "Rewritten",
    "Scheme",
    "Shrunk",
    "calibrate",
    "choose",
    "densify",
    "factorize",
    "fake_quantize",
    "fold_batch_norm",
    "fold_weights",
    "importance",
    "load",
    "mask",
    "qat",
    "quantize",
    "remove_dead",
    "restore",
    "save",
    "shrink",
]


def __dir__() -> list[str]:
    return __all__
