"""MLP-Mixer, in NNX: dense layers over patches and over channels in turn."""

import jax
import jax.numpy as jnp
from flax import nnx

from train.models.layers import Mode


class Perceptron(nnx.Module):
    """A dense layer, GELU, and one back.

    Args:
      width: what it reads and gives.
      hidden: between.
      rngs: from which parameters are drawn.
    """

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., width]`` -> the same."""
        return self.down(nnx.gelu(self.up(x), approximate=False))


class Block(nnx.Module):
    """A perceptron over tokens, then one over channels, each behind a norm and beside a shortcut.

    Args:
      tokens: how many.
      width: channels of a token.
      hidden: of the perceptron over tokens, and of that over channels.
      rngs: from which parameters are drawn.
    """

    def __init__(self, tokens: int, width: int, hidden: tuple[int, int], *, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs) for _ in range(2)])
        self.over_tokens = Perceptron(tokens, hidden[0], rngs=rngs)
        self.over_channels = Perceptron(width, hidden[1], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, tokens, width]`` -> the same."""
        x = x + self.over_tokens(self.norms[0](x).swapaxes(1, 2)).swapaxes(1, 2)
        return x + self.over_channels(self.norms[1](x))


class Mixer(nnx.Module):
    """Patches, mixed: at width 768, depth 12, patches of 16 it is B/16, 59,880,472 parameters for 1,000 classes.

    Args:
      shape: of an image, ``[height, width, channels]``; ``patch`` divides the sides.
      classes: outputs.
      patch: side of a patch, pixels.
      width: channels of a token.
      depth: blocks.
      hidden: of the perceptrons over tokens and over channels; the paper's are half and four times the width.
      rngs: from which parameters are drawn.

    Reference: Tolstikhin et al., MLP-Mixer: an all-MLP architecture for vision, 2021.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, patch: int = 4, width: int = 64, depth: int = 4,
        hidden: tuple[int, int] = (32, 256), *, rngs: nnx.Rngs,
    ):  # fmt: skip
        if shape[0] % patch or shape[1] % patch:
            raise ValueError(f"patches of {patch} need sides that are multiples of it, got {shape[0]}x{shape[1]}")
        tokens = (shape[0] // patch) * (shape[1] // patch)
        self.patches = nnx.Conv(shape[-1], width, (patch, patch), patch, padding="VALID", rngs=rngs)
        self.blocks = nnx.List([Block(tokens, width, hidden, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array, mode: Mode = Mode()) -> jax.Array:  # noqa: B008 -- a constant
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del mode  # nothing here depends on the other examples of a batch
        x = self.patches(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(self.norm(x), axis=1))
