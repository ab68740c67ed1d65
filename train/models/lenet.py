"""The LeNets on which compression papers report."""

import jax
from flax import linen as nn


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers, 266,610 parameters on 28x28x1 with 10 classes.

    Reference: LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid
        x = images.reshape(images.shape[0], -1)
        for width in (300, 100):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


class LeNet5(nn.Module):
    """LeNet-5 in Caffe's shape: two 5x5 convolutions without padding, 431,080 parameters on 28x28x1 with 10 classes.

    Reference: LeCun et al., 1998; Jia et al., Caffe, 2014.
    """

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid
        x = images
        for width in (20, 50):
            x = nn.max_pool(nn.Conv(width, (5, 5), padding="VALID")(x), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(500)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes)(x)
