"""Feature fusion: maps of several sizes, each told what the coarser ones know."""

import jax
from flax import linen as nn

from train.models.layers import ConvNorm, Mode, doubled


class Pyramid(nn.Module):
    """From the coarsest map down: a 1x1 convolution of each, plus the doubled one above, then a 3x3 convolution.

    Attributes:
      width: channels of every map.
      finest: how many maps are read, the finest; None: all.

    Reference: Lin et al., Feature pyramid networks for object detection, 2017.
    """

    width: int
    finest: int | None = None

    @nn.compact
    def __call__(self, maps: list[jax.Array], mode: Mode) -> list[jax.Array]:
        """Maps ``[batch, h, w, c]``, the finest first -> as many of ``width`` channels, or the finest of them."""
        merged: list[jax.Array] = []
        for own in reversed(maps):
            x = ConvNorm(self.width, 1, activation=None)(own, mode)
            merged.append(x + doubled(merged[-1], x) if merged else x)
        return [ConvNorm(self.width)(x, mode) for x in merged[::-1][: self.finest]]
