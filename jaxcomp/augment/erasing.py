"""Random rectangles that are replaced by noise or by one value."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.augment.augmentation import Augmentation, checked_probability, parted, uniforms
from jaxcomp.augment.crop import TRIES, fitting
from jaxcomp.augment.cutout import rectangle
from jaxcomp.augment.labels import Labels
from jaxcomp.core.errors import ArgumentError


def random_erasing(
    probability: float = 0.25,
    *,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    fill: float | None = None,
) -> Augmentation:
    """Erases a random rectangle of some images; classes, boxes and masks stay.

    The rectangle's share of the area is uniform, the logarithm of its width by its height too. Of ten drawn, the first
    that fits is erased, and nothing if none does. Published: a probability of 0.5 and shares from 0.02 to 0.4 on
    CIFAR; of 0.25 and the other defaults in DeiT's recipe for ImageNet.

    Args:
      probability: with which an image loses one.
      area: least and greatest share of the image's area, in (0, 1].
      ratio: least and greatest width by height, above 0.
      fill: value of its pixels, in the images' own unit: 0 to 255 of uint8, 0 to 1 of floating point; None: noise,
        uniform over that range, for each pixel and channel.

    Raises:
      ArgumentError: for a probability or ranges that are none.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.full((1, 8, 8, 1), 7, jnp.uint8)
      >>> erased, _ = random_erasing(1.0, area=(0.25, 0.25), ratio=(1, 1), fill=0)(jax.random.key(0), images)
      >>> int((erased == 0).sum())
      16

    Reference: Zhong et al., Random erasing data augmentation, 2020; Touvron et al., Training data-efficient image
    transformers and distillation through attention, 2021, table 9.
    """
    checked_probability("random_erasing: probability", probability)
    if not 0 < area[0] <= area[1] <= 1:
        raise ArgumentError(f"random_erasing: area must be shares of the area, 0 < least <= most <= 1, got {area}")
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ArgumentError(f"random_erasing: ratio must be widths by heights, 0 < least <= most, got {ratio}")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        height, width = images.shape[1:3]
        chance, *drawn = uniforms(parted(keys, 0), 1 + 4 * TRIES)
        (top, left, tall, wide), fits = fitting(jnp.stack(drawn), height, width, area, ratio)
        inside = rectangle(height, width, top, left, tall, wide) & ((chance < probability) & fits)[:, None, None]
        new = _noise(parted(keys, 1), images) if fill is None else jnp.asarray(fill, images.dtype)
        return jnp.where(inside[..., None], new, images), labels

    return Augmentation(f"random_erasing({probability}, area={area}, ratio={ratio}, fill={fill})", move)


def _noise(keys: Array, images: Array) -> Array:
    """Uniform levels for each pixel of each image."""
    count = math.prod(images.shape[1:])
    words = jax.vmap(lambda key: jax.random.bits(key, (-(-count // 4),), jnp.uint32))(keys)  # bytes would cost as much
    levels = lax.bitcast_convert_type(words, jnp.uint8).reshape(len(images), -1)[:, :count].reshape(images.shape)
    return levels if images.dtype == jnp.uint8 else levels.astype(images.dtype) / jnp.asarray(255, images.dtype)
