"""AlexNet, in its later form on one device, without local response normalization."""

import jax
from flax import linen as nn


class AlexNet(nn.Module):
    """Five convolutions with biases, three poolings, three dense layers: 61,100,840 parameters for ImageNet.

    Dropout is left out: the scripts hand networks no keys, and show images through ``jc.augment`` instead.

    Attributes:
      classes: outputs.
      widths: channels of the convolutions.
      hidden: of each of the two dense layers.
      stem: side of the first kernel, and its stride: ``(11, 4)``, or ``(3, 1)`` for small images.

    Reference: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014.
    """

    classes: int
    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    hidden: int = 4096
    stem: tuple[int, int] = (11, 4)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid  # nothing here depends on the other examples of a batch
        x, (size, stride) = images, self.stem
        kernels = ((size, stride, 2 if stride > 1 else 1), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
        for i, (width, (size, stride, padding)) in enumerate(zip(self.widths, kernels, strict=True)):
            x = nn.relu(nn.Conv(width, (size, size), stride, padding=padding)(x))
            if i in (0, 1, 4) and min(x.shape[1:3]) > 2:
                x = nn.max_pool(x, (3, 3), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.Dense(self.classes)(x)
