"""Rewrites: new functions of smaller parameters that compute what the views computed."""

from jaxcomp.rewrite.channels.choose import choose as choose
from jaxcomp.rewrite.channels.dead_channels import remove_dead as remove_dead
from jaxcomp.rewrite.channels.importance import importance as importance
from jaxcomp.rewrite.channels.shrink import Shrunk as Shrunk
from jaxcomp.rewrite.channels.shrink import mask as mask
from jaxcomp.rewrite.channels.shrink import shrink as shrink
from jaxcomp.rewrite.folding.batch_norm import Folded as Folded
from jaxcomp.rewrite.folding.batch_norm import fold_batch_norm as fold_batch_norm
from jaxcomp.rewrite.folding.weights import fold_weights as fold_weights
from jaxcomp.rewrite.lowrank.factorize import Factorized as Factorized
from jaxcomp.rewrite.lowrank.factorize import factorize as factorize
from jaxcomp.rewrite.quant.calibrate import calibrate as calibrate
from jaxcomp.rewrite.quant.qat import QuantizedTraining as QuantizedTraining
from jaxcomp.rewrite.quant.qat import qat as qat
from jaxcomp.rewrite.quant.quantize import Quantized as Quantized
from jaxcomp.rewrite.quant.quantize import fake_quantize as fake_quantize
from jaxcomp.rewrite.quant.quantize import quantize as quantize
from jaxcomp.rewrite.quant.scheme import Scheme as Scheme
from jaxcomp.trace.packed.leaf import Packed as Packed
from jaxcomp.trace.packed.leaf import densify as densify
