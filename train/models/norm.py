"""Batch norm whose statistics count each valid example once, wherever the devices are that hold it."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, with Flax's names and defaults.

    Flax's own averages the devices' means, which weighs a device with one valid example like one with five; here
    sums and counts are summed over the devices.

    Attributes:
      use_running_average: normalize with the running statistics, as in inference.
      axis_name: the pmap axis over which statistics are taken, if any.
      momentum: of the running statistics.
      epsilon: added to the variance.

    Reference: Ioffe and Szegedy, Batch normalization, 2015.
    """

    use_running_average: bool
    axis_name: str | None = None
    momentum: float = 0.99
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """``[..., channels]``, normalized; ``mask``, of x's rank, leaves examples out of the statistics."""
        width = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        var = self.variable("batch_stats", "var", jnp.ones, width)
        now = mean.value, var.value
        if not self.use_running_average:
            now = statistics(x, jnp.ones((1,) * x.ndim) if mask is None else mask, self.axis_name)
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * now[0]
                var.value = self.momentum * var.value + (1 - self.momentum) * now[1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        return ((x - now[0]) * jax.lax.rsqrt(now[1] + self.epsilon) * scale + bias).astype(x.dtype)


def statistics(x: jax.Array, mask: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance ``[channels]`` over the examples whose mask, of x's rank, is 1, on all devices."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes, weights = tuple(range(x.ndim - 1)), jnp.broadcast_to(mask, (*x.shape[:-1], 1)).astype(x.dtype)
    sums = jnp.sum(weights, axes), jnp.sum(weights * x, axes), jnp.sum(weights * x * x, axes)
    count, first, second = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    mean = first / count
    return mean, jnp.maximum(second / count - mean * mean, 0)
