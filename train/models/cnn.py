"""A plain convolutional classifier for small images: the teacher and the student of the main job."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class CNN(nn.Module):
    """3x3 convolutions with biases and ReLU, stride 2 from the second on, then a mean over space and a head.

    Attributes:
      classes: outputs.
      widths: output channels of each convolution.
    """

    classes: int
    widths: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid  # nothing here depends on the other examples of a batch
        x = images
        for i, width in enumerate(self.widths):
            x = nn.relu(nn.Conv(width, (3, 3), strides=1 if i == 0 else 2, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
