"""A convolution network of few weights: two strided 5x5 convolutions, a mean over positions, one matrix."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.lenet import by_patches


class Strided(nn.Module):
    """Two 5x5 convolutions of stride 2 without padding and a last layer on the mean over positions.

    Of widths (8, 16) it has 3,594 parameters on 28x28x1 with 10 classes. It computes by products over patches, which a
    CPU runs as fast inside a loop as outside.

    Attributes:
      classes: how many.
      widths: channels of the two convolutions.
    """

    classes: int
    widths: tuple[int, int] = (8, 16)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid
        x = images
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (5, 5), (2, 2), padding="VALID", conv_general_dilated=by_patches)(x))
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
