"""The LeNets on which compression papers report."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers, 266,610 parameters on 28x28x1 with 10 classes.

    Attributes:
      classes: how many.
      widths: of the hidden layers; others than the published ones where channels were cut.

    Reference: LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """

    classes: int
    widths: tuple[int, ...] = (300, 100)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid
        x = images.reshape(images.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


class LeNet5(nn.Module):
    """LeNet-5 in Caffe's shape: two 5x5 convolutions without padding, 431,080 parameters on 28x28x1 with 10 classes.

    Attributes:
      classes: how many.
      patches: computes the same by products over patches, which a CPU runs as fast inside a loop as outside.
      widths: of the convolutions and of the hidden layer; others than the published ones where channels were cut.

    Reference: LeCun et al., 1998; Jia et al., Caffe, 2014.
    """

    classes: int
    patches: bool = False
    widths: tuple[int, ...] = (20, 50, 500)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid
        x = images
        *convolutions, hidden = self.widths
        for width in convolutions:
            convolve = by_patches if self.patches else None
            x = nn.Conv(width, (5, 5), padding="VALID", conv_general_dilated=convolve)(x)
            x = halved(x) if self.patches else nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(hidden)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)


def by_patches(images: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """A convolution without padding as a matrix product over patches.

    XLA:CPU runs convolutions inside a loop 6 times as slowly as outside; products it runs as fast.
    """
    del padding, options
    (down, right), (height, width, deep, wide) = strides, kernel.shape
    rows, columns = (images.shape[1] - height) // down + 1, (images.shape[2] - width) // right + 1
    ends = (rows - 1) * down + 1, (columns - 1) * right + 1
    moved = [images[:, i : i + ends[0] : down, j : j + ends[1] : right] for i in range(height) for j in range(width)]
    patches = jnp.stack(moved, axis=3).reshape(-1, height * width * deep)
    return (patches @ kernel.reshape(-1, wide)).reshape(-1, rows, columns, wide)


def halved(images: jax.Array) -> jax.Array:
    """Max pooling over 2x2 of even sides: what ``nn.max_pool`` computes, with a gradient that is fast on a CPU."""
    batch, height, width, channels = images.shape
    return jnp.max(images.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))
