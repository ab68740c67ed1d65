"""Colors of images as Pillow changes them: blends with another image, and tables of levels.

Every function takes and returns ``[batch, h, w, c]`` images of one type. uint8 gives Pillow's levels, computed in whole
numbers, or in float32 where all of them are exact. Floating-point images are in [0, 1]: blends are not rounded to
levels, and what works on levels finds the nearest of 256 first.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.leaves import wide
from jaxcomp.core.reproducible import rounded

FINEST = 4096
"""Factors of blends are multiples of 1 / 4096: their product with the difference of two levels is exact in float32."""

RED, GREEN, BLUE = 19595, 38470, 7471
"""How much each counts for gray, in 65536ths: ITU-R 601-2, as Pillow rounds it."""


def blend(other: Array, images: Array, factor: Array) -> Array:
    """Interpolates from another image to this one, and beyond: ``other + factor (images - other)``, clipped.

    Args:
      other: ``[batch, h, w, c]``, of the dtype of ``images``.
      images: ``[batch, h, w, c]``: the result of a factor of 1.
      factor: ``[batch]`` float32, 0 or more; rounded to a multiple of 1 / 4096.

    Returns:
      ``[batch, h, w, c]``, of the same dtype.

    Example:
      >>> dark, bright = jnp.zeros((1, 1, 1, 1), jnp.uint8), jnp.full((1, 1, 1, 1), 100, jnp.uint8)
      >>> [blend(dark, bright, jnp.array([factor])).item() for factor in (0.5, 1.5, 3.0)]
      [50, 150, 255]
    """
    kind = wide(images.dtype)
    factor = (jnp.round(factor * FINEST) / FINEST).astype(kind)[:, None, None, None]
    low, high = other.astype(kind), images.astype(kind)
    mixed = jnp.clip(low + rounded(factor * (high - low)), 0, white(images))
    mixed = jnp.floor(mixed) if images.dtype == jnp.uint8 else mixed
    return jnp.where(factor == 1, images, mixed.astype(images.dtype))


def white(images: Array) -> int:
    """Returns the largest value of a channel: 255 for uint8, 1 for floating point."""
    return 255 if images.dtype == jnp.uint8 else 1


def gray(images: Array) -> Array:
    """Removes color from ``[batch, h, w, c]``: every channel becomes the luma (ITU-R 601-2)."""
    if images.shape[-1] == 1:
        return images
    return jnp.broadcast_to(_luma(images), images.shape)


def _luma(images: Array) -> Array:
    if images.dtype == jnp.uint8:
        red, green, blue = (images[..., i : i + 1].astype(jnp.int32) for i in range(3))
        return ((red * RED + green * GREEN + blue * BLUE + (1 << 15)) >> 16).astype(jnp.uint8)
    kind = wide(images.dtype)
    red, green, blue = (images[..., i : i + 1].astype(kind) for i in range(3))
    luma = rounded(red * (RED / 65536)) + rounded(green * (GREEN / 65536)) + rounded(blue * (BLUE / 65536))
    return luma.astype(images.dtype)


def mean_gray(images: Array) -> Array:
    """Replaces every pixel of ``[batch, h, w, c]`` by its image's mean luma, rounded to a level."""
    luma = levels(images if images.shape[-1] == 1 else _luma(images))
    count = luma[0].size
    mean = (luma.sum(axis=(1, 2, 3), keepdims=True, dtype=jnp.int32) + count // 2) // count
    return jnp.broadcast_to(_from_levels(mean, images), images.shape)


def smooth(images: Array) -> Array:
    """Convolves ``[batch, h, w, c]`` with Pillow's 3x3 mean, its middle weighted 5; pixels at the border stay."""
    height, width = images.shape[1:3]
    if min(height, width) < 3:
        return images
    kind = wide(images.dtype)
    x = images.astype(kind)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    inner = jnp.floor((total + 6.5) / 13) if images.dtype == jnp.uint8 else total / 13
    return images.at[:, 1:-1, 1:-1].set(inner.astype(images.dtype))


def posterize(images: Array, bits: Array) -> Array:
    """Keeps the ``bits`` most significant bits of each level.

    Args:
      images: ``[batch, h, w, c]``.
      bits: ``[batch]`` int32, 0 to 8.

    Example:
      >>> posterize(jnp.full((1, 1, 1, 1), 255, jnp.uint8), jnp.array([2])).item()
      192
    """
    mask = (-jnp.left_shift(jnp.int32(1), 8 - bits))[:, None, None, None]
    return _from_levels(levels(images) & mask, images)


def solarize(images: Array, threshold: Array) -> Array:
    """Inverts channels from a level on.

    Args:
      images: ``[batch, h, w, c]``.
      threshold: ``[batch]`` float32, a level of 0 to 255 for both dtypes.

    Example:
      >>> solarize(jnp.array([[[[10], [200]]]], jnp.uint8), jnp.array([128.0])).ravel().tolist()
      [10, 55]
    """
    bound = threshold[:, None, None, None].astype(wide(images.dtype))
    bound = bound if images.dtype == jnp.uint8 else bound / 255
    return jnp.where(images.astype(bound.dtype) < bound, images, jnp.asarray(white(images), images.dtype) - images)


def autocontrast(images: Array) -> Array:
    """Stretches each channel of ``[batch, h, w, c]`` until its darkest pixel is black and its brightest white.

    At most one level above Pillow, which computes in floating point what is a whole number at times.

    Example:
      >>> autocontrast(jnp.array([[[[50], [60], [100]]]], jnp.uint8)).ravel().tolist()
      [0, 51, 255]
    """
    low, high = (find(images, axis=(1, 2), keepdims=True) for find in (jnp.min, jnp.max))
    if images.dtype == jnp.uint8:
        x, low, high = (each.astype(jnp.int32) for each in (images, low, high))
        stretched = ((x - low) * 255 // jnp.maximum(high - low, 1)).astype(jnp.uint8)
    else:
        x, low, high = (each.astype(wide(images.dtype)) for each in (images, low, high))
        stretched = ((x - low) / jnp.where(high > low, high - low, 1)).astype(images.dtype)
    return jnp.where(high > low, stretched, images)


def equalize(images: Array) -> Array:
    """Equalizes the histogram of each channel of ``[batch, h, w, c]``, by Pillow's rule."""
    batch, height, width, channels = images.shape
    flat = jnp.moveaxis(levels(images).reshape(batch, height * width, channels), -1, 1)
    counts = jax.vmap(jax.vmap(_histogram))(flat)
    table = _from_levels(jax.vmap(jax.vmap(_equal_levels))(counts), images)
    found = jnp.take_along_axis(table, flat, axis=-1, mode="promise_in_bounds")
    found = jnp.moveaxis(found, 1, -1).reshape(images.shape)
    # Levels that would stay keep what floating-point images hold between them.
    same = (table == _from_levels(jnp.arange(256, dtype=jnp.int32), images)[None, None]).all(axis=-1)[:, None, None]
    return jnp.where(same, images, found)


def _histogram(flat: Array) -> Array:
    return jnp.zeros(256, jnp.int32).at[flat].add(1, mode="promise_in_bounds")


def _equal_levels(counts: Array) -> Array:
    """The new level of each level: ``[256]`` -> ``[256]`` int32."""
    levels = jnp.arange(256, dtype=jnp.int32)
    brightest = jnp.where(counts > 0, levels, 0).max()
    step = (counts.sum() - counts[brightest]) // 255
    before = counts.cumsum() - counts
    table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, levels)


def levels(images: Array) -> Array:
    """Rounds channels to the nearest of 256 levels: ``[...]`` int32, 0 to 255."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.int32)
    return jnp.clip(jnp.floor(rounded(images.astype(wide(images.dtype)) * 255) + 0.5), 0, 255).astype(jnp.int32)


def _from_levels(whole: Array, like: Array) -> Array:
    """Converts levels to the dtype of images: the inverse of :func:`levels`.

    Args:
      whole: ``[...]`` integers, 0 to 255.
      like: images of the dtype that is wanted, uint8 or floating point.

    Example:
      >>> _from_levels(jnp.array([0, 255]), jnp.ones(1)).tolist()
      [0.0, 1.0]
    """
    return (
        whole.astype(like.dtype)
        if like.dtype == jnp.uint8
        else (whole.astype(wide(like.dtype)) / 255).astype(like.dtype)
    )
