"""Full-size networks whose costs are published: as shapes alone for planning, with random weights for all else."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1, the last four times as wide, about a shortcut."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h/stride, w/stride, 4 width]``."""

        def norm(y: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=True)(y)

        y = nn.relu(norm(nn.Conv(self.width, (1, 1), use_bias=False)(x)))
        y = nn.relu(norm(nn.Conv(self.width, (3, 3), (self.stride, self.stride), use_bias=False)(y)))
        y = norm(nn.Conv(4 * self.width, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm(nn.Conv(4 * self.width, (1, 1), (self.stride, self.stride), use_bias=False)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """He et al., 2015, with the stride on the 3x3 convolution."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, 224, 224, 3]`` -> ``[batch, 1000]`` logits."""
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(64, (7, 7), (2, 2), use_bias=False)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


def resnet152() -> ResNet50:
    """The deepest of He et al., 2015."""
    return ResNet50((3, 8, 36, 3))


class VGG(nn.Module):
    """Plain 3x3 convolutions with batch norm, wider after each pooling: a network that is bound by its products."""

    widths: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256), (512, 512))

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, 32, 32, 3]`` -> ``[batch, 10]`` logits."""
        for stage in self.widths:
            for width in stage:
                x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(width, (3, 3), use_bias=False)(x)))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(10)(x.mean((1, 2)))


class MobileNet(nn.Module):
    """Howard et al., 2017, for small images: depthwise and pointwise convolutions in turn."""

    blocks: tuple[tuple[int, int], ...] = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, 32, 32, 3]`` -> ``[batch, 10]`` logits."""

        def unit(x: jax.Array, width: int, **options: Any) -> jax.Array:
            x = nn.Conv(width, use_bias=False, **options)(x)
            return nn.relu(nn.BatchNorm(use_running_average=True)(x))

        x = unit(x, 32, kernel_size=(3, 3))
        for width, stride in self.blocks:
            x = unit(x, x.shape[-1], kernel_size=(3, 3), strides=stride, feature_group_count=x.shape[-1])
            x = unit(x, width, kernel_size=(1, 1))
        return nn.Dense(10)(x.mean((1, 2)))


class MobileNetV2(nn.Module):
    """Sandler et al., 2018: wide within, narrow between, and no rectifier where it is narrow."""

    blocks: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    )  # fmt: skip

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, 224, 224, 3]`` -> ``[batch, 1000]`` logits."""

        def unit(x: jax.Array, width: int, size: int = 1, **options: Any) -> jax.Array:
            x = nn.Conv(width, (size, size), use_bias=False, **options)(x)
            return nn.BatchNorm(use_running_average=True)(x)

        x = nn.relu6(unit(x, 32, 3, strides=2))
        for factor, width, count, stride in self.blocks:
            for block in range(count):
                inner = factor * x.shape[-1]
                y = nn.relu6(unit(x, inner)) if factor > 1 else x
                y = nn.relu6(unit(y, inner, 3, strides=1 if block else stride, feature_group_count=inner))
                y = unit(y, width)
                x = x + y if x.shape == y.shape else y
        return nn.Dense(1000)(nn.relu6(unit(x, 1280)).mean((1, 2)))


class ViTBlock(nn.Module):
    """Attention and a perceptron, each behind its norm, about a shortcut."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, tokens, width]`` -> the same."""
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y)


class ViTB16(nn.Module):
    """Dosovitskiy et al., 2020."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, 224, 224, 3]`` -> ``[batch, 1000]`` logits."""
        x = nn.Conv(768, (16, 16), (16, 16), padding="VALID")(x).reshape(x.shape[0], -1, 768)
        token = self.param("cls", nn.initializers.zeros, (1, 1, 768))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 768)), x], axis=1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], 768))
        for _ in range(12):
            x = ViTBlock(12)(x)
        return nn.Dense(1000)(nn.LayerNorm()(x)[:, 0])


def abstract(model: nn.Module, *example: Any) -> Any:
    """The model's variables as shapes, computed by nobody."""
    return jax.eval_shape(model.init, jax.random.key(0), *example)


def filled(model: nn.Module, *example: Any) -> Any:
    """The model's variables at random: kernels that keep the size of what they read, norms that do little."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, own: Any) -> jax.Array:
        name, fan = path[-1].key, max(own.size // own.shape[-1], 1)
        if name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, own.shape)
        elif len(own.shape) > 1:
            value = rng.standard_normal(own.shape, np.float32) * np.sqrt(2 / fan)
        else:
            value = 0.1 * rng.standard_normal(own.shape, np.float32)
        return jnp.asarray(value, own.dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract(model, *example))
