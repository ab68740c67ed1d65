"""ConvNeXt, in NNX: a residual network with what transformers taught."""

import jax
import jax.numpy as jnp
from flax import nnx

from train.models.layers import Mode

init = nnx.initializers.truncated_normal(0.02)


class Block(nnx.Module):
    """7x7 depthwise, norm, 1x1 to four times the channels, GELU, 1x1 back, a learned scale, beside a shortcut.

    Args:
      width: channels.
      rngs: from which parameters are drawn.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.depthwise = nnx.Conv(width, width, (7, 7), feature_group_count=width, kernel_init=init, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, kernel_init=init, rngs=rngs)
        self.scale = nnx.Param(jnp.full(width, 1e-6))

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, h, w, width]`` -> the same."""
        y = nnx.gelu(self.up(self.norm(self.depthwise(x))), approximate=False)
        return x + self.down(y) * self.scale[...]


class Smaller(nnx.Module):
    """A norm and a convolution of a patch; of images, the convolution and then the norm.

    Args:
      before: input channels.
      after: output channels.
      patch: side of the kernel, and its stride.
      first: whether it reads images.
      rngs: from which parameters are drawn.
    """

    def __init__(self, before: int, after: int, patch: int, first: bool, *, rngs: nnx.Rngs):
        self.first = first
        self.norm = nnx.LayerNorm(after if first else before, epsilon=1e-6, rngs=rngs)
        self.conv = nnx.Conv(before, after, (patch, patch), patch, padding="SAME", kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, h, w, before]`` -> ``[batch, h/patch, w/patch, after]``."""
        return self.norm(self.conv(x)) if self.first else self.conv(self.norm(x))


class ConvNeXt(nnx.Module):
    """Stages of blocks, made smaller between: by default ConvNeXt-T, 28,589,128 parameters for 1,000 classes.

    Args:
      shape: of an image, ``[height, width, channels]``.
      classes: outputs; 0: the stages' maps instead, largest first, for a detector or a segmenter.
      blocks: of each stage: ``(3, 3, 9, 3)`` of T, ``(3, 3, 27, 3)`` of S and larger.
      widths: channels of each stage.
      patch: side of the stem's patches; 4, or less for small images.
      rngs: from which parameters are drawn.

    Reference: Liu et al., A ConvNet for the 2020s, 2022.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, blocks: tuple[int, ...] = (3, 3, 9, 3),
        widths: tuple[int, ...] = (96, 192, 384, 768), patch: int = 4, *, rngs: nnx.Rngs,
    ):  # fmt: skip
        ends = zip((shape[-1], *widths), widths, strict=False)
        self.smaller = nnx.List([Smaller(*end, 2 if i else patch, not i, rngs=rngs) for i, end in enumerate(ends)])
        self.stages = nnx.List(
            [nnx.List([Block(width, rngs=rngs) for _ in range(n)]) for width, n in zip(widths, blocks, strict=True)]
        )
        self.norm = nnx.LayerNorm(widths[-1], epsilon=1e-6, rngs=rngs) if classes else None
        self.head = nnx.Linear(widths[-1], classes, kernel_init=init, rngs=rngs) if classes else None

    def __call__(self, images: jax.Array, mode: Mode = Mode()) -> jax.Array | list[jax.Array]:  # noqa: B008 -- a constant
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        del mode  # nothing here depends on the other examples of a batch
        x, outputs = images, []
        for smaller, stage in zip(self.smaller, self.stages, strict=True):
            x = smaller(x)
            for block in stage:
                x = block(x)
            outputs.append(x)
        if self.head is None or self.norm is None:
            return outputs
        return self.head(self.norm(jnp.mean(x, axis=(1, 2))))
