"""The LeNets on which compression papers report."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers, 266,610 parameters on 28x28x1 with 10 classes.

    Reference: LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid
        x = images.reshape(images.shape[0], -1)
        for width in (300, 100):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


class LeNet5(nn.Module):
    """LeNet-5 in Caffe's shape: two 5x5 convolutions without padding, 431,080 parameters on 28x28x1 with 10 classes.

    Attributes:
      classes: how many.
      patches: computes the same by products over patches, which a CPU runs as fast inside a loop as outside.

    Reference: LeCun et al., 1998; Jia et al., Caffe, 2014.
    """

    classes: int
    patches: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid
        x = images
        for width in (20, 50):
            convolve = by_patches if self.patches else None
            x = nn.Conv(width, (5, 5), padding="VALID", conv_general_dilated=convolve)(x)
            x = halved(x) if self.patches else nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(500)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)


def by_patches(images: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """A convolution of stride 1 without padding as a matrix product over patches.

    XLA:CPU runs convolutions inside a loop 6 times as slowly as outside; products it runs as fast.
    """
    del strides, padding, options
    height, width, deep, wide = kernel.shape
    rows, columns = images.shape[1] - height + 1, images.shape[2] - width + 1
    moved = [images[:, i : i + rows, j : j + columns] for i in range(height) for j in range(width)]
    patches = jnp.stack(moved, axis=3).reshape(-1, height * width * deep)
    return (patches @ kernel.reshape(-1, wide)).reshape(-1, rows, columns, wide)


def halved(images: jax.Array) -> jax.Array:
    """Max pooling over 2x2 of even sides: what ``nn.max_pool`` computes, with a gradient that is fast on a CPU."""
    batch, height, width, channels = images.shape
    return jnp.max(images.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))
