"""ResNets for larger images: basic or bottleneck blocks, with the published stem or that of ResNet-D."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.layers import ConvNorm, Mode, by_size, halved


class Residual(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 to four times the width, beside a shortcut.

    Attributes:
      width: channels within; of a basic block also at its end.
      stride: of the first 3x3 convolution.
      bottleneck: which of the two.
      pooled: whether a shortcut of stride 2 averages before it projects (ResNet-D).
    """

    width: int
    stride: int = 1
    bottleneck: bool = True
    pooled: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h/stride, w/stride, width or 4 width]``."""
        last = functools.partial(ConvNorm, activation=None)
        if self.bottleneck:
            y = ConvNorm(self.width, 1)(x, mode)
            y = last(4 * self.width, 1)(ConvNorm(self.width, 3, self.stride)(y, mode), mode)
        else:
            y = last(self.width)(ConvNorm(self.width, 3, self.stride)(x, mode), mode)
        stride = self.stride
        if self.pooled and stride > 1:
            x = nn.avg_pool(x, (stride, stride), (stride, stride), "SAME", count_include_pad=False)
            stride = 1
        if stride > 1 or x.shape[-1] != y.shape[-1]:
            x = last(y.shape[-1], 1, stride)(x, mode)
        return nn.relu(x + y)


class ImageNetResNet(nn.Module):
    """A stem, a pooling and four stages: by default ResNet-50, 25,557,032 parameters for 1,000 classes.

    Attributes:
      classes: outputs; 0: the stages' maps instead, largest first, for a detector or a segmenter.
      blocks: of each stage: ``(2, 2, 2, 2)`` is ResNet-18, ``(3, 4, 6, 3)`` 34 and 50, ``(3, 8, 36, 3)`` 152.
      bottleneck: whether blocks are bottlenecks (50 and deeper), or basic (18 and 34).
      width: channels of the stem.
      variant: ``"b"``: the stride is on 3x3 convolutions; ``"d"``: also three of them are the stem, shortcuts average.
      halvings: how often the sides are halved, at most 5; the first (stem, pooling) are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: He et al., Deep residual learning for image recognition, 2016; He et al., Bag of tricks, 2019 (ResNet-D).
    """

    classes: int
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    width: int = 64
    variant: str = "b"
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        if self.variant not in ("b", "d"):
            raise ValueError(f"variant must be 'b' or 'd', got {self.variant!r}")
        mode, outputs = Mode(train, valid, self.axis_name), []
        stem, pooling, *strides = halved((2, 2, 1, *(2 for _ in self.blocks[1:])), self.halvings)
        if self.variant == "d":
            x = ConvNorm(self.width // 2)(ConvNorm(self.width // 2, 3, stem)(images, mode), mode)
            x = ConvNorm(self.width)(x, mode)
        else:
            x = ConvNorm(self.width, 7 if stem > 1 else 3, stem)(images, mode)
        if pooling > 1:
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, (count, stride) in enumerate(zip(self.blocks, strides, strict=True)):
            for block in range(count):
                own = 1 if block else stride
                x = Residual(self.width * 2**stage, own, self.bottleneck, self.variant == "d")(x, mode)
            outputs.append(x)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2))) if self.classes else by_size(outputs)
