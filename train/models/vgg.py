"""VGG with batch norm: 3x3 convolutions in a row, wider after each pooling."""

import jax
from flax import linen as nn

from train.models.layers import ConvNorm, Mode, by_size, halved

BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions between poolings, by depth."""


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each ended by a pooling, then dense layers: VGG-16 has 138,365,992 parameters.

    Dropout is left out: the scripts hand networks no keys, and show images through ``jc.augment`` instead.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      depth: layers with weights: 11, 13, 16 or 19.
      widths: channels of each stage; fewer than five leave out the last.
      hidden: of each dense layer but the last.
      halvings: how many stages pool, at most 5; the first do not.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Simonyan and Zisserman, Very deep convolutional networks, 2015, configurations A, B, D and E.
    """

    classes: int
    depth: int = 16
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: tuple[int, ...] = (4096, 4096)
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        if self.depth not in BLOCKS:
            raise ValueError(f"depth must be one of {list(BLOCKS)}, got {self.depth}")
        mode, x, outputs = Mode(train, valid, self.axis_name), images, []
        strides = halved([2] * len(self.widths), self.halvings)
        for width, count, stride in zip(self.widths, BLOCKS[self.depth], strides, strict=False):
            for _ in range(count):
                x = ConvNorm(width, bias=True)(x, mode)
            outputs.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME") if stride == 2 else x
        if not self.classes:
            return by_size([*outputs, x])
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)
