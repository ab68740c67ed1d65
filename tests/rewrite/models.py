"""Small models as users write them, unedited, of families that ``train.models`` does not hold so small or at all."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class CNN(nn.Module):
    """Convolutions, pools, flatten, dense."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.max_pool(nn.relu(nn.Conv(6, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.avg_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(10)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


class BasicResNet(nn.Module):
    """Two stages of basic blocks with batch norm; the second shortcut projects."""

    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def norm(y: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=not self.train)(y)

        x = nn.relu(norm(nn.Conv(6, (3, 3), use_bias=False)(x)))
        for width, stride in ((6, 1), (10, 2)):
            y = nn.relu(norm(nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)))
            y = norm(nn.Conv(width, (3, 3), use_bias=False)(y))
            if y.shape != x.shape:
                x = norm(nn.Conv(width, (1, 1), (stride, stride), use_bias=False)(x))
            x = nn.relu(x + y)
        return nn.Dense(3)(x.mean((1, 2)))


class OptionA(nn.Module):
    """The CIFAR ResNet's shortcut without parameters: every other pixel, channels padded with zeros."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), use_bias=False)(x))
        for width, stride in ((4, 1), (8, 2), (16, 2)):
            y = nn.relu(nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x))
            y = nn.Conv(width, (3, 3), use_bias=False)(y)
            if stride > 1:
                more = (width - x.shape[-1]) // 2
                x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (more, more)))
            x = nn.relu(x + y)
        return nn.Dense(3)(x.mean((1, 2)))


class MobileBlock(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze and excite, project."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.hard_swish(nn.Conv(6, (3, 3))(x))
        y = nn.hard_swish(nn.Conv(12, (1, 1), use_bias=False)(x))
        y = nn.relu6(nn.Conv(12, (3, 3), feature_group_count=12)(y))
        gate = nn.relu(nn.Dense(4)(y.mean((1, 2))))
        y = y * nn.hard_sigmoid(nn.Dense(12)(gate))[:, None, None]
        x = x + nn.Conv(6, (1, 1))(y)
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Dense(nn.Module):
    """DenseNet: each layer reads all before it."""

    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(6, (3, 3))(x)
        for _ in range(3):
            y = nn.relu(nn.BatchNorm(use_running_average=not self.train)(x))
            x = jnp.concatenate([x, nn.Conv(4, (3, 3))(y)], axis=-1)
        return nn.Dense(3)(nn.relu(x).mean((1, 2)))


class ViT(nn.Module):
    """Patches, class token, positions, pre-norm blocks with dropout."""

    train: bool = False
    fused: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(12, (4, 4), (4, 4))(x).reshape(x.shape[0], -1, 12)
        token = self.param("cls", nn.initializers.normal(1.0), (1, 1, 12))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 12)), x], axis=1)
        x = x + self.param("position", nn.initializers.normal(1.0), (1, x.shape[1], 12))
        for _ in range(2):
            y = nn.LayerNorm()(x)
            y = self.attention(y) if self.fused else nn.MultiHeadDotProductAttention(3)(y)
            x = x + nn.Dropout(0.3, deterministic=not self.train)(y)
            y = nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))
            x = x + nn.Dense(12)(nn.Dropout(0.3, deterministic=not self.train)(y))
        return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])

    def attention(self, x: jax.Array) -> jax.Array:
        """Queries, keys and values of one matmul."""
        qkv = nn.Dense(36)(x).reshape(*x.shape[:2], 3, 3, 4)
        query, key, value = (qkv[:, :, i] for i in range(3))
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / 2.0)
        return nn.Dense(12)(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape))


class Recurrent(nn.Module):
    """A recurrent cell over time, then dense."""

    cell: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.RNN(self.cell)(x)[:, -1])


class ConvNeXt(nn.Module):
    """Depthwise, norm, pointwise, layer scale."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm()(nn.Conv(8, (2, 2), (2, 2))(x))
        y = nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        y = nn.Dense(8)(nn.gelu(nn.Dense(16)(y)))
        x = x + y * self.param("gamma", nn.initializers.constant(0.1), (8,))
        return nn.Dense(3)(nn.LayerNorm()(x.mean((1, 2))))


class ScannedBlock(nn.Module):
    """A residual block as nn.scan wants it."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        y = nn.Dense(10)(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.gelu(y)), None


class Scanned(nn.Module):
    """Layers stacked by scan, each rematerialized."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(8)(x.reshape(x.shape[0], -1))
        block = nn.remat(ScannedBlock, prevent_cse=False)
        x, _ = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)
        return nn.Dense(3)(x)


class ShuffleNet(nn.Module):
    """Two units of half the channels each, shuffled between; blurred by a constant kernel before it is halved.

    Reference: Ma et al., ShuffleNet V2, 2018; Zhang, Making convolutional networks shift-invariant again, 2019.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(y: jax.Array, size: int, groups: int = 1) -> jax.Array:
            return nn.BatchNorm(use_running_average=True)(nn.Conv(4, (size, size), feature_group_count=groups)(y))

        x = nn.relu(nn.Conv(8, (3, 3))(x))
        blur = jnp.full((2, 2, 1, 8), 0.25)
        x = lax.conv_general_dilated(
            x, blur, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=8
        )
        for _ in range(2):
            left, y = jnp.split(x, 2, axis=-1)
            y = nn.relu(layer(layer(nn.relu(layer(y, 1)), 3, 4), 1))
            x = jnp.stack([left, y], axis=-1).reshape(x.shape)
        return nn.Dense(3)(x.mean((1, 2)))


class Swin(nn.Module):
    """Attention in shifted windows, of fused projections; patches merged; the heads are two.

    Reference: Liu et al., Swin transformer, 2021.
    """

    width: int = 8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (2, 2), (2, 2))(x)
        for shift in (0, 1):
            y = jnp.roll(nn.LayerNorm()(x), (-shift, -shift), (1, 2))
            x = x + jnp.roll(self._attend(y), (shift, shift), (1, 2))
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        x = _windows(x).reshape(x.shape[0], -1, 4 * self.width)
        return nn.Dense(3)(nn.Dense(10)(nn.LayerNorm()(x)).mean(1))

    def _attend(self, x: jax.Array) -> jax.Array:
        count, rows, columns, _ = x.shape
        windows = _windows(x)
        q, k, v = nn.Dense(3 * self.width)(windows).reshape(-1, 4, 3, 2, self.width // 2).transpose(2, 0, 3, 1, 4)
        weights = nn.softmax(q @ k.swapaxes(-1, -2))
        out = nn.Dense(self.width)((weights @ v).swapaxes(1, 2).reshape(windows.shape))
        out = out.reshape(count, rows // 2, columns // 2, 2, 2, -1)
        return out.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


def _windows(x: jax.Array) -> jax.Array:
    """``[batch, rows, columns, channels]`` -> ``[batch x windows, 4, channels]``, windows of 2 x 2."""
    count, rows, columns, channels = x.shape
    x = x.reshape(count, rows // 2, 2, columns // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
