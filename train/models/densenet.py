"""DenseNet: each layer reads all before it."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.layers import ConvNorm, Mode, by_size, convolution, halved, normalized


class DenseLayer(nn.Module):
    """Norm, rectifier, 1x1, norm, rectifier, 3x3 to ``growth`` channels, beside what came in.

    Attributes:
      growth: channels that it adds; four times as many are between the convolutions.
    """

    growth: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h, w, c + growth]``."""
        y = convolution(4 * self.growth, 1)(nn.relu(normalized(x, mode)))
        y = convolution(self.growth, 3)(nn.relu(normalized(y, mode)))
        return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
    """Blocks of dense layers; between two of them 1x1 to half the channels, and pooling. By default DenseNet-121.

    Attributes:
      classes: outputs; 0: the blocks' maps instead, largest first, for a detector or a segmenter.
      blocks: layers of each: ``(6, 12, 24, 16)`` has 7,978,856 parameters for 1,000 classes.
      growth: channels that a layer adds.
      width: channels of the stem.
      halvings: how often the sides are halved, at most 5; the first (stem, pooling) are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Huang et al., Densely connected convolutional networks, 2017 (DenseNet-BC).
    """

    classes: int
    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    width: int = 64
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        mode, outputs = Mode(train, valid, self.axis_name), []
        stem, pooling, *strides = halved((2, 2, *(2 for _ in self.blocks[1:])), self.halvings)
        x = ConvNorm(self.width, 7 if stem > 1 else 3, stem)(images, mode)
        if pooling > 1:
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, layers in enumerate(self.blocks):
            if i:
                x = convolution(x.shape[-1] // 2, 1)(nn.relu(normalized(x, mode)))
                if strides[i - 1] > 1:
                    x = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
            for _ in range(layers):
                x = DenseLayer(self.growth)(x, mode)
            outputs.append(x)
        x = nn.relu(normalized(x, mode))
        outputs[-1] = x
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2))) if self.classes else by_size(outputs)
