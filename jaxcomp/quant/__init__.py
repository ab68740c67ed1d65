"""Quantisation: views in which weights take the values that integers with a scale can hold. One method, one file."""

from jaxcomp.quant.fake import code_range as code_range
from jaxcomp.quant.fake import dequantize as dequantize
from jaxcomp.quant.fake import fake as fake
from jaxcomp.quant.fake import fake_quantize as fake_quantize
from jaxcomp.quant.fake import fit_grid as fit_grid
from jaxcomp.quant.fake import quantize as quantize
