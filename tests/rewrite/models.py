"""Small models of every family, unedited: what users write."""

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


class Mixer(nn.Module):
    """Tokens and channels mixed in turn."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (4, 4), (4, 4))(x).reshape(x.shape[0], -1, 8)
        y = nn.LayerNorm()(x).swapaxes(1, 2)
        y = nn.Dense(y.shape[-1])(nn.gelu(nn.Dense(5)(y)))
        x = x + y.swapaxes(1, 2)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x).mean(1))


class ConvNeXt(nn.Module):
    """Depthwise, norm, pointwise, layer scale."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm()(nn.Conv(8, (2, 2), (2, 2))(x))
        y = nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        y = nn.Dense(8)(nn.gelu(nn.Dense(16)(y)))
        x = x + y * self.param("gamma", nn.initializers.constant(0.1), (8,))
        return nn.Dense(3)(nn.LayerNorm()(x.mean((1, 2))))


class UNet(nn.Module):
    """Down, up by repetition, skip by concatenation; two results."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        a = nn.GroupNorm(2)(nn.relu(nn.Conv(8, (3, 3))(x)))
        b = nn.relu(nn.Conv(6, (3, 3), (2, 2))(a))
        up = jax.image.resize(b, (*a.shape[:3], 6), "nearest")
        c = nn.relu(nn.ConvTranspose(4, (3, 3))(jnp.concatenate([a, up], axis=-1)))
        return nn.Conv(2, (1, 1))(c), nn.Dense(3)(b.mean((1, 2)))


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


class BottleneckResNet(nn.Module):
    """Two stages of bottlenecks with batch norm; both shortcuts project."""

    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(y: jax.Array, width: int, size: int, stride: int = 1) -> jax.Array:
            y = nn.Conv(width, (size, size), (stride, stride), use_bias=False)(y)
            return nn.BatchNorm(use_running_average=not self.train)(y)

        x = nn.max_pool(nn.relu(layer(x, 4, 3)), (3, 3), (2, 2), padding="SAME")
        for inner, outer, stride in ((3, 8, 1), (5, 12, 2)):
            y = nn.relu(layer(nn.relu(layer(x, inner, 1)), inner + 1, 3, stride))
            x = nn.relu(layer(y, outer, 1) + layer(x, outer, 1, stride))
        return nn.Dense(3)(x.mean((1, 2)))


class VGG(nn.Module):
    """Convolutions in a row with pools between them, then three dense layers with dropout."""

    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for widths in ((4, 5), (6, 7)):
            for width in widths:
                x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for width in (9, 8):
            x = nn.Dropout(0.5, deterministic=not self.train)(nn.relu(nn.Dense(width)(x)))
        return nn.Dense(3)(x)


class MobileNetV3(nn.Module):
    """An inverted residual gated by squeeze and excite of 1x1 convolutions, then a head of 1x1 convolutions."""

    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def norm(y: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=not self.train, momentum=0.99, epsilon=1e-3)(y)

        x = nn.hard_swish(norm(nn.Conv(4, (3, 3), (2, 2), use_bias=False)(x)))
        y = nn.hard_swish(norm(nn.Conv(9, (1, 1), use_bias=False)(x)))
        y = nn.hard_swish(norm(nn.Conv(9, (5, 5), feature_group_count=9, use_bias=False)(y)))
        gate = nn.relu(nn.Conv(5, (1, 1))(nn.avg_pool(y, y.shape[1:3])))
        y = y * nn.hard_sigmoid(nn.Conv(9, (1, 1))(gate))
        x = x + norm(nn.Conv(4, (1, 1), use_bias=False)(y))
        x = nn.hard_swish(norm(nn.Conv(8, (1, 1), use_bias=False)(x))).mean((1, 2), keepdims=True)
        x = nn.hard_swish(nn.Conv(10, (1, 1))(x))
        return nn.Conv(3, (1, 1))(x).squeeze((1, 2))


class GoogLeNet(nn.Module):
    """Two modules of four branches that end side by side."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(y: jax.Array, width: int, size: int) -> jax.Array:
            return nn.relu(nn.Conv(width, (size, size))(y))

        x = layer(x, 6, 3)
        for one, (low3, three), (low5, five), pooled in ((4, (3, 5), (2, 3), 2), (3, (4, 6), (3, 2), 4)):
            branches = [
                layer(x, one, 1),
                layer(layer(x, low3, 1), three, 3),
                layer(layer(x, low5, 1), five, 5),
                layer(nn.max_pool(x, (3, 3), padding="SAME"), pooled, 1),
            ]
            x = jnp.concatenate(branches, axis=-1)
        return nn.Dense(3)(nn.avg_pool(x, x.shape[1:3]).reshape(x.shape[0], -1))


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
