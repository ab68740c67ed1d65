"""ResNets for 32x32 images, with the parameter-free shortcut of the original paper (option A)."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.norm import BatchNorm

_conv = functools.partial(
    nn.Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal")
)
_norm = functools.partial(BatchNorm, momentum=0.9)  # as the published networks were trained


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm about a shortcut that subsamples and pads channels with zeros.

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
        y = _conv(self.width, (3, 3), strides=self.stride, padding=1)(x)
        y = nn.relu(norm()(y, mask=valid))
        y = norm()(_conv(self.width, (3, 3), padding=1)(y), mask=valid)
        missing = self.width - x.shape[-1]
        shortcut = x[:, :: self.stride, :: self.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """ResNet-(6n+2) for CIFAR: three stages of n blocks, of 16, 32 and 64 channels.

    Attributes:
      classes: outputs; 0: the stages' maps instead, largest first.
      depth: 20, 32, 44, 56, ...: 6n + 2.
      width: channels of the first stage.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: He et al., Deep residual learning for image recognition, 2016, section 4.2.
    """

    classes: int
    depth: int = 20
    width: int = 16
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        if valid is not None:
            valid = valid[:, None, None, None]
        x = _conv(self.width, (3, 3), padding=1)(images)
        norm = _norm(use_running_average=not train, axis_name=self.axis_name)
        x = nn.relu(norm(x, mask=valid))
        maps = []
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Block(self.width * 2**stage, stride, self.axis_name)(x, train=train, valid=valid)
            maps.append(x)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2))) if self.classes else maps
