"""A vision transformer, small by default; of width 768 and depth 12 on patches of 16 it is ViT-B/16, or DeiT-B."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn


class Encoder(nn.Module):
    """Attention, then two dense layers, each after a layer norm and beside a shortcut.

    Attributes:
      heads: of the attention.
      hidden: channels between the dense layers.
      drop_path: of :class:`ViT`, here.
    """

    heads: int
    hidden: int
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[batch, tokens, width]`` -> the same."""
        norm = functools.partial(nn.LayerNorm, epsilon=1e-6)
        kept = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        x = x + kept(nn.MultiHeadDotProductAttention(self.heads)(norm()(x)))
        y = nn.gelu(nn.Dense(self.hidden)(norm()(x)), approximate=False)
        return x + kept(nn.Dense(x.shape[-1])(y))


class ViT(nn.Module):
    """Patches as tokens, a class token before them, and a head that reads it. ViT-B/16 has 86,567,656 parameters.

    Attributes:
      classes: outputs.
      patch: side of a patch, pixels; it divides the images' sides.
      width: channels of a token.
      depth: encoders.
      heads: of each attention; they divide the width.
      distilled: whether a second token learns, with a head of its own; training gives the logits of both, inference
        their mean.
      drop_path: probability with which training leaves a branch of the last encoder out, example by example; that of
        those before rises from 0 (stochastic depth).

    Reference: Dosovitskiy et al., An image is worth 16x16 words, 2021; Touvron et al., Training data-efficient image
    transformers and distillation through attention (DeiT), 2021; Huang et al., Deep networks with stochastic depth,
    2016.
    """

    classes: int
    patch: int = 4
    width: int = 64
    depth: int = 4
    heads: int = 4
    distilled: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | tuple[jax.Array, ...]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del valid  # nothing here depends on the other examples of a batch
        sides = (self.patch, self.patch)
        x = nn.Conv(self.width, sides, strides=sides, padding="VALID", name="embedding")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        names = ("class_token", "distillation_token")[: 1 + self.distilled]
        tokens = [self.param(name, nn.initializers.zeros, (1, 1, self.width)) for name in names]
        x = jnp.concatenate([*(jnp.broadcast_to(each, (x.shape[0], 1, self.width)) for each in tokens), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for number in range(self.depth):
            x = Encoder(self.heads, 4 * self.width, self.drop_path * number / max(self.depth - 1, 1))(x, train)
        x = nn.LayerNorm(epsilon=1e-6)(x[:, : len(names)])
        logits = nn.Dense(self.classes, name="head")(x[:, 0])
        if not self.distilled:
            return logits
        second = nn.Dense(self.classes, name="distillation_head")(x[:, 1])
        return (logits, second) if train else (logits + second) / 2
