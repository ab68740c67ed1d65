"""The block of mobile networks: wide within, depthwise there, narrow between."""

import functools

import jax
from flax import linen as nn

from train.models.layers import Activation, ConvNorm, Mode, SqueezeExcite


class InvertedResidual(nn.Module):
    """1x1 to ``inner`` channels, depthwise, 1x1 to ``width`` without activation; a shortcut where the shape stays.

    Attributes:
      width: output channels.
      inner: channels within; as many as come in: no first convolution.
      size: side of the depthwise kernel; 0: there is none.
      stride: of the depthwise convolution.
      activation: within.
      squeeze: channels of a squeeze-and-excitation before the last convolution; 0: there is none.
      before: side of the kernel of a depthwise convolution before all else; 0: there is none.
      epsilon: of the norms.

    Reference: Sandler et al., MobileNetV2, 2018; Howard et al., Searching for MobileNetV3, 2019; Qin et al.,
    MobileNetV4, 2024, where ``before`` and ``size`` 0 make of it ExtraDW and ConvNext.
    """

    width: int
    inner: int
    size: int = 3
    stride: int = 1
    activation: Activation = nn.relu6
    squeeze: int = 0
    before: int = 0
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h/stride, w/stride, width]``."""
        layer = functools.partial(ConvNorm, activation=self.activation, epsilon=self.epsilon)
        first, second = (1, self.stride) if self.size else (self.stride, 1)
        y = x
        if self.before:
            y = layer(x.shape[-1], self.before, first, groups=0, activation=None)(y, mode)
        if self.inner != x.shape[-1]:
            y = layer(self.inner, 1)(y, mode)
        if self.size:
            y = layer(self.inner, self.size, second, groups=0)(y, mode)
        if self.squeeze:
            y = SqueezeExcite(self.squeeze)(y)
        y = layer(self.width, 1, activation=None)(y, mode)
        return x + y if self.stride == 1 and x.shape == y.shape else y
