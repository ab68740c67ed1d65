"""Post-training: better parameters of the same function, found on data without labels."""

from jaxcomp.posttrain.correct_biases import Corrected, correct_biases
from jaxcomp.posttrain.equalize import Equalized, equalize, smooth
from jaxcomp.posttrain.ptq import PostTrained, ptq
from jaxcomp.posttrain.recalibrate import recalibrate
from jaxcomp.posttrain.refit import refit
from jaxcomp.posttrain.round_weights import Rounded, round_weights
from jaxcomp.posttrain.share import Shared, share
from jaxcomp.posttrain.sparsify import Sparsified, sparsify

__all__ = [
    "Corrected",
    "Equalized",
    "PostTrained",
    "Rounded",
    "Shared",
    "Sparsified",
    "correct_biases",
    "equalize",
    "ptq",
    "recalibrate",
    "refit",
    "round_weights",
    "share",
    "smooth",
    "sparsify",
]


def __dir__() -> list[str]:
    return __all__
