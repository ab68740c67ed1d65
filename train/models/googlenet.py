"""GoogLeNet: branches side by side, and two auxiliary heads in training."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.layers import ConvNorm, Mode, by_size, halved

STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)  # fmt: skip
"""Modules between poolings; of each the channels of 1x1; 1x1 and 3x3; 1x1 and the second 3x3; 1x1 after pooling."""


class Inception(nn.Module):
    """Four branches that end side by side; the published 5x5 is 3x3, as in the weights that people use.

    Attributes:
      widths: channels, as in ``STAGES``.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> the same with the branches' channels together."""
        one, before3, three, before5, five, pooled = self.widths
        branches = [
            ConvNorm(one, 1)(x, mode),
            ConvNorm(three)(ConvNorm(before3, 1)(x, mode), mode),
            ConvNorm(five)(ConvNorm(before5, 1)(x, mode), mode),
            ConvNorm(pooled, 1)(nn.max_pool(x, (3, 3), padding="SAME"), mode),
        ]
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """Means of a 4x4 grid (of all that there is, where it is smaller), 1x1, two dense layers.

    Attributes:
      classes: outputs.
      width: channels of the 1x1 convolution; eight times as many of the dense layer.
    """

    classes: int
    width: int = 128

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, classes]``."""
        rows, columns = (max(1, side // 4) for side in x.shape[1:3])
        x = ConvNorm(self.width, 1)(nn.avg_pool(x, (rows, columns), (rows, columns))[:, :4, :4], mode)
        x = nn.relu(nn.Dense(8 * self.width)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)


class GoogLeNet(nn.Module):
    """A stem and nine modules: 6,624,904 parameters for 1,000 classes, 13,004,888 with auxiliary heads.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      width: factor of all channels.
      stages: modules between poolings, of each the channels of its branches, as in ``STAGES``.
      auxiliary: whether training gives, after the logits, those of heads on the first and the fourth module of the
        second stage.
      halvings: how often the sides are halved, at most 5; the first are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Szegedy et al., Going deeper with convolutions, 2015, with batch norm as in torchvision.
    """

    classes: int
    width: float = 1.0
    stages: tuple[tuple[tuple[int, ...], ...], ...] = STAGES
    auxiliary: bool = False
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array] | tuple[jax.Array, ...]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        mode, outputs, heads = Mode(train, valid, self.axis_name), [], []
        stem, *strides = halved((2, 2, 2, 2, 2), self.halvings)

        def scaled(*widths: int) -> tuple[int, ...]:
            return tuple(max(1, round(self.width * width)) for width in widths)

        def pooled(x: jax.Array, stride: int, size: int = 3) -> jax.Array:
            return nn.max_pool(x, (size, size), (2, 2), "SAME") if stride > 1 else x

        x = pooled(ConvNorm(*scaled(64), 7 if stem > 1 else 3, stem)(images, mode), strides[0])
        x = ConvNorm(*scaled(192))(ConvNorm(*scaled(64), 1)(x, mode), mode)
        outputs.append(x)
        for stage, modules in enumerate(self.stages):
            x = pooled(x, strides[1 + stage], 2 if stage == 2 else 3)
            for i, widths in enumerate(modules):
                x = Inception(scaled(*widths))(x, mode)
                if self.auxiliary and stage == 1 and i in (0, 3) and (train or self.is_initializing()):
                    heads.append(AuxiliaryHead(self.classes, *scaled(128))(x, mode))
            outputs.append(x)
        if not self.classes:
            return by_size(outputs)
        logits = nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
        return (logits, *heads) if train and heads else logits
