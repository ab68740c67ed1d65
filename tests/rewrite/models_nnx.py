"""Small NNX models, unedited: what users write."""

import jax
from flax import nnx


class ConvNorm(nnx.Module):
    """A convolution without bias and its norm."""

    def __init__(self, before: int, after: int, size: int, stride: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(before, after, (size, size), (stride, stride), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(after, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class Residual(nnx.Module):
    """Convolutions one after the other about a shortcut, which projects where the shape changes."""

    def __init__(self, before: int, widths: list[int], sizes: list[int], stride: int, rngs: nnx.Rngs):
        ends = zip([before, *widths], widths, sizes, strict=False)
        steps = [stride if i == len(widths) - 2 else 1 for i in range(len(widths))]
        self.layers = nnx.List([ConvNorm(*end, step, rngs) for end, step in zip(ends, steps, strict=True)])
        changes = stride > 1 or before != widths[-1]
        self.shortcut = ConvNorm(before, widths[-1], 1, stride, rngs) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer in self.layers[:-1]:
            y = nnx.relu(layer(y))
        return nnx.relu(self.layers[-1](y) + (x if self.shortcut is None else self.shortcut(x)))


class BasicResNet(nnx.Module):
    """Two stages of two 3x3 convolutions each."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, 6, 3, 1, rngs)
        self.blocks = nnx.List([Residual(6, [5, 6], [3, 3], 1, rngs), Residual(6, [9, 10], [3, 3], 2, rngs)])
        self.head = nnx.Linear(10, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class ViT(nnx.Module):
    """Patches, positions, one pre-norm block."""

    def __init__(self, rngs: nnx.Rngs):
        self.patches = nnx.Conv(3, 12, (4, 4), (4, 4), rngs=rngs)
        self.position = nnx.Param(jax.random.normal(rngs.params(), (1, 4, 12)))
        self.norms = nnx.List([nnx.LayerNorm(12, rngs=rngs) for _ in range(3)])
        self.attention = nnx.MultiHeadAttention(3, 12, decode=False, rngs=rngs)
        self.up = nnx.Linear(12, 16, rngs=rngs)
        self.down = nnx.Linear(16, 12, rngs=rngs)
        self.head = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x).reshape(x.shape[0], -1, 12) + self.position[...]
        x = x + self.attention(self.norms[0](x))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x).mean(1))
