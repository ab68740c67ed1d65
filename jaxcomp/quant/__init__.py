"""Quantisation: views in which weights take the values that codes with a scale can hold. One method, one file.

A method is put together of values: a format (``formats``: which numbers), a granularity (``granularity``: who shares a
scale), a range (``ranges``: how far it reaches) and a gradient (``fake``: straight through, ``lsq``: learned, ...).
``gptq`` and ``adaround`` round a layer on data. What is no real floating-point tensor (complex weights, whole numbers)
is left as it is, with a note.
"""

from jaxcomp.quant.adaround import adaround as adaround
from jaxcomp.quant.binary import annealed as annealed
from jaxcomp.quant.binary import approximate_sign as approximate_sign
from jaxcomp.quant.binary import binary as binary
from jaxcomp.quant.binary import clipped as clipped
from jaxcomp.quant.binary import sign as sign
from jaxcomp.quant.dorefa import dorefa as dorefa
from jaxcomp.quant.fake import code_range as code_range
from jaxcomp.quant.fake import dequantize as dequantize
from jaxcomp.quant.fake import fake as fake
from jaxcomp.quant.fake import fake_quantize as fake_quantize
from jaxcomp.quant.fake import fit_grid as fit_grid
from jaxcomp.quant.fake import quantize as quantize
from jaxcomp.quant.formats import Format as Format
from jaxcomp.quant.formats import apot as apot
from jaxcomp.quant.formats import every_format as every_format
from jaxcomp.quant.formats import fp4 as fp4
from jaxcomp.quant.formats import fp8 as fp8
from jaxcomp.quant.formats import integer as integer
from jaxcomp.quant.formats import named as named
from jaxcomp.quant.formats import nf4 as nf4
from jaxcomp.quant.formats import power_of_two as power_of_two
from jaxcomp.quant.formats import to_integers as to_integers
from jaxcomp.quant.gptq import descend as descend
from jaxcomp.quant.gptq import gptq as gptq
from jaxcomp.quant.granularity import Groups as Groups
from jaxcomp.quant.lsq import Steps as Steps
from jaxcomp.quant.lsq import grid_of as grid_of
from jaxcomp.quant.lsq import learned_quantize as learned_quantize
from jaxcomp.quant.lsq import lsq as lsq
from jaxcomp.quant.pact import clip_quantize as clip_quantize
from jaxcomp.quant.pact import pact as pact
from jaxcomp.quant.ranges import deviations as deviations
from jaxcomp.quant.ranges import entropy as entropy
from jaxcomp.quant.ranges import grid_between as grid_between
from jaxcomp.quant.ranges import histogram as histogram
from jaxcomp.quant.ranges import mean_size as mean_size
from jaxcomp.quant.ranges import min_max as min_max
from jaxcomp.quant.ranges import mse as mse
from jaxcomp.quant.ranges import percentile as percentile
from jaxcomp.quant.ternary import ternary as ternary
from jaxcomp.quant.ttq import ttq as ttq
