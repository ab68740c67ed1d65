"""The ResNet-8 of the MLPerf Tiny benchmark: a block a stage, shortcuts by 1x1 convolutions, biases everywhere."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.norm import BatchNorm

_norm = functools.partial(BatchNorm, epsilon=1e-3)  # Keras's


class TinyBlock(nn.Module):
    """Two 3x3 convolutions with batch norm about a shortcut: the identity or, where the shape changes, a convolution.

    Attributes:
      width: output channels.
      stride: of the first convolution and of the shortcut.
      axis_name: the pmap axis over which batch statistics are taken, if any.
    """

    width: int
    stride: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h/stride, w/stride, width]``."""
        norm = functools.partial(_norm, use_running_average=not train, axis_name=self.axis_name)
        y = nn.relu(norm()(nn.Conv(self.width, (3, 3), strides=self.stride)(x), mask=valid))
        y = norm()(nn.Conv(self.width, (3, 3))(y), mask=valid)
        if x.shape[-1] != self.width or self.stride > 1:
            x = nn.Conv(self.width, (1, 1), strides=self.stride)(x)
        return nn.relu(x + y)


class TinyResNet(nn.Module):
    """The benchmark's image classifier: a stem and three blocks, of 16, 16, 32 and 64 channels.

    Attributes:
      classes: outputs.
      width: channels of the stem and of the first block.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Banbury et al., MLPerf Tiny Benchmark, 2021; mlcommons/tiny, ``resnet_v1_eembc``.
    """

    classes: int
    width: int = 16
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        if valid is not None:
            valid = valid[:, None, None, None]
        norm = _norm(use_running_average=not train, axis_name=self.axis_name)
        x = nn.relu(norm(nn.Conv(self.width, (3, 3))(images), mask=valid))
        for stage in range(3):
            x = TinyBlock(self.width * 2**stage, 1 + (stage > 0), self.axis_name)(x, train=train, valid=valid)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
