"""A head like DeepLab's, on any backbone: what is around each pixel, near and far, and fine maps for its edges."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.layers import ConvNorm, Mode


class DeepLab(nn.Module):
    """Dilated convolutions over the coarsest map and its mean, beside the finest map; enlarged to the images' size.

    Attributes:
      classes: of a pixel.
      backbone: gives maps, the finest first (any classifier of ``train.models`` that is made with 0 classes).
      width: channels of each branch and of what merges them.
      rates: distances of the pixels that the 3x3 kernels read in the coarsest map.
      fine: channels that are kept of the finest map.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Chen et al., Encoder-decoder with atrous separable convolution (DeepLabv3+), 2018; the backbone keeps its
    strides here, and the rates are smaller instead.
    """

    classes: int
    backbone: nn.Module
    width: int = 64
    rates: tuple[int, ...] = (1, 2, 3)
    fine: int = 16
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, height, width, classes]`` logits."""
        mode = Mode(train, valid, self.axis_name)
        first, *_, x = self.backbone(images, train=train, valid=valid)
        mean = ConvNorm(self.width, 1)(jnp.mean(x, axis=(1, 2), keepdims=True), mode)
        branches = [ConvNorm(self.width, 1)(x, mode), jnp.broadcast_to(mean, (*x.shape[:3], self.width))]
        branches += [ConvNorm(self.width, dilation=rate)(x, mode) for rate in self.rates]
        x = ConvNorm(self.width, 1)(jnp.concatenate(branches, axis=-1), mode)
        x = jax.image.resize(x, (*first.shape[:3], self.width), "bilinear")
        x = jnp.concatenate([ConvNorm(self.fine, 1)(first, mode), x], axis=-1)
        x = nn.Conv(self.classes, (1, 1))(ConvNorm(self.width)(x, mode))
        return jax.image.resize(x, (*images.shape[:3], self.classes), "bilinear")
