"""An LSTM that reads an image row by row."""

import jax
from flax import linen as nn


class RowLSTM(nn.Module):
    """Layers of LSTM over the rows of an image, and a head that reads the last step.

    Attributes:
      classes: outputs.
      width: numbers of a state.
      depth: layers.

    Reference: Hochreiter and Schmidhuber, Long short-term memory, 1997.
    """

    classes: int
    width: int = 128
    depth: int = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del train, valid  # nothing here depends on the other examples of a batch
        x = images.reshape(*images.shape[:2], -1)
        for _ in range(self.depth):
            x = nn.RNN(nn.OptimizedLSTMCell(self.width))(x)
        return nn.Dense(self.classes)(x[:, -1])
