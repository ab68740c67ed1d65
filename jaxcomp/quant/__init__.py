"""Quantization: views in which weights take the values that codes with a scale can hold. One method, one file.

A method is put together of values: a format (``formats``: which numbers), a granularity (``granularity``: who shares a
scale), a range (``ranges``: how far it reaches) and a gradient (``fake``: straight through, ``lsq``: learned, ...).
``gptq`` and ``adaround`` round a layer on data. What is no real floating-point tensor (complex weights, whole numbers)
is left as it is, with a note.
"""

from jaxcomp.quant.adaround import adaround
from jaxcomp.quant.binary import annealed, approximate_sign, binary, clipped, sign
from jaxcomp.quant.dorefa import dorefa
from jaxcomp.quant.fake import code_range, dequantize, fake, fake_quantize, fit_grid, quantize
from jaxcomp.quant.formats import Format, apot, every_format, fp4, fp8, integer, named, nf4, power_of_two, to_integers
from jaxcomp.quant.gptq import descend, gptq
from jaxcomp.quant.granularity import ScaleGroups
from jaxcomp.quant.lsq import Steps, grid_of, learned_quantize, lsq
from jaxcomp.quant.pact import clip_quantize, pact
from jaxcomp.quant.ranges import deviations, entropy, grid_between, histogram, mean_size, min_max, mse, percentile
from jaxcomp.quant.ternary import ternary
from jaxcomp.quant.ttq import ttq

__all__ = [
    "Format",
    "ScaleGroups",
    "Steps",
    "adaround",
    "annealed",
    "apot",
    "approximate_sign",
    "binary",
    "clip_quantize",
    "clipped",
    "code_range",
    "dequantize",
    "descend",
    "deviations",
    "dorefa",
    "entropy",
    "every_format",
    "fake",
    "fake_quantize",
    "fit_grid",
    "fp4",
    "fp8",
    "gptq",
    "grid_between",
    "grid_of",
    "histogram",
    "integer",
    "learned_quantize",
    "lsq",
    "mean_size",
    "min_max",
    "mse",
    "named",
    "nf4",
    "pact",
    "percentile",
    "power_of_two",
    "quantize",
    "sign",
    "ternary",
    "to_integers",
    "ttq",
]


def __dir__() -> list[str]:
    return __all__
