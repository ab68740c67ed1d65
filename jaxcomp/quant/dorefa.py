"""DoReFa: weights are squashed into [-1, 1] and rounded there."""

import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Compressor, Grid, Note
from jaxcomp.quant.fake import fake_quantize, note_of
from jaxcomp.quant.formats import as_format


@printed
def dorefa(bits: int = 4) -> Compressor:
    r"""Shows weights as :math:`\mathrm{round}(n \tanh w / \tanh m) / n`, m the largest :math:`|w|`, n the largest code.

    Gradients are those of :math:`\tanh w / \tanh m`, m constant between updates, and 0 where a weight has passed it.
    The layer's size is lost: batch norm or a scale must follow. Levels lie evenly about 0 and hold it (:math:`2^b - 1`
    of them, n = :math:`2^{b-1} - 1`), where the paper's :math:`2^b` step over it: what is pruned stays pruned, and
    codes are plain integers. A view of a view is another one, so that it belongs in the loss and not after the
    optimizer's step. The paper's activations, rounded on [0, 1], are :func:`jaxcomp.rewrite.fake_quantize`'s on such a
    grid, given as ``ranges``; its one-bit weights are :func:`binary`.

    Args:
      bits: 2 to 8.

    Returns:
      A compressor whose state is m per tensor, 1 along every axis.

    Raises:
      ArgumentError: for other bits; from its functions, naming the path, for weights that are not finite.

    Example:
      >>> quant = dorefa(3)
      >>> w = jnp.array([0.1, -2.0, 0.5, 1.5])
      >>> (3 * quant.apply(w, quant.init(w))).round().tolist()
      [0.0, -3.0, 1.0, 3.0]

    Reference: Zhou et al., DoReFa-Net: training low bitwidth convolutional neural networks with low bitwidth gradients,
    2016.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ArgumentError(f"DoReFa's weights have 2 to 8 bits, got {bits!r}; of one bit see jc.quant.binary")
    format = as_format(bits)

    def fit(w: Array) -> Array:
        largest = jnp.max(jnp.abs(w.astype(wide(w.dtype))), initial=0).reshape((1,) * w.ndim)
        if not isinstance(largest, Tracer) and not bool(jnp.all(jnp.isfinite(largest))):
            raise ArgumentError("the weights hold NaN or infinity: mend them first")
        return largest

    def view(w: Array, largest: Array) -> Array:
        ends = lax.stop_gradient(jnp.where(largest > 0, jnp.tanh(largest), 1))
        return fake_quantize(jnp.tanh(w.astype(largest.dtype)) / ends, grid(largest), format).astype(w.dtype)

    def grid(largest: Array) -> Grid:
        return Grid(jnp.full_like(largest, 1 / format.top), jnp.zeros(largest.shape, jnp.int32))

    def note(largest: Array) -> Note:
        return note_of(grid(largest), format)

    return tensorwise(fit, view, note)
