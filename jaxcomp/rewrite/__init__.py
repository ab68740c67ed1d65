"""Rewrites: new functions of smaller parameters that compute what the views computed."""

from jaxcomp.rewrite.activations import activations as activations
from jaxcomp.rewrite.calibrate import calibrate as calibrate
from jaxcomp.rewrite.choose import choose as choose
from jaxcomp.rewrite.curvature import fisher as fisher
from jaxcomp.rewrite.curvature import hutchinson as hutchinson
from jaxcomp.rewrite.curvature import output_gradients as output_gradients
from jaxcomp.rewrite.factorize import Factorized as Factorized
from jaxcomp.rewrite.factorize import factorize as factorize
from jaxcomp.rewrite.fold import Folded as Folded
from jaxcomp.rewrite.fold import fold_batch_norm as fold_batch_norm
from jaxcomp.rewrite.importance import importance as importance
from jaxcomp.rewrite.norms import input_norms as input_norms
from jaxcomp.rewrite.quantize import Quantized as Quantized
from jaxcomp.rewrite.quantize import fake_quantize as fake_quantize
from jaxcomp.rewrite.quantize import quantize as quantize
from jaxcomp.rewrite.recalibrate import recalibrate as recalibrate
from jaxcomp.rewrite.refit import refit as refit
from jaxcomp.rewrite.schemes import Scheme as Scheme
from jaxcomp.rewrite.schemes import ends as ends
from jaxcomp.rewrite.shrink import Shrunk as Shrunk
from jaxcomp.rewrite.shrink import mask as mask
from jaxcomp.rewrite.shrink import shrink as shrink
from jaxcomp.rewrite.sparsify import Sparsified as Sparsified
from jaxcomp.rewrite.sparsify import sparsify as sparsify
from jaxcomp.trace.packed import Packed as Packed
from jaxcomp.trace.packed import densify as densify
