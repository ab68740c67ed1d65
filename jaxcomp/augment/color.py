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
    """Goes from another image to this one, and beyond: ``other + factor (images - other)``, cut off at black and white.

    Args:
      other: ``[batch, h, w, c]``, of the type of ``images``.
      images: what a factor of 1 gives.
      factor: ``[batch]`` float32, 0 or more; rounded to a multiple of 1 / 4096.
    """
    kind = wide(images.dtype)
    factor = (jnp.round(factor * FINEST) / FINEST).astype(kind)[:, None, None, None]
    low, high = other.astype(kind), images.astype(kind)
    mixed = jnp.clip(low + rounded(factor * (high - low)), 0, white(images))
    mixed = jnp.floor(mixed) if images.dtype == jnp.uint8 else mixed
    return jnp.where(factor == 1, images, mixed.astype(images.dtype))


def white(images: Array) -> int:
    """The brightest that a channel can be."""
    return 255 if images.dtype == jnp.uint8 else 1


def gray(images: Array) -> Array:
    """The images without color: luma in every channel."""
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
    """One gray an image: the mean of its luma, rounded to a level."""
    luma = levels(images if images.shape[-1] == 1 else _luma(images))
    count = luma[0].size
    mean = (luma.sum(axis=(1, 2, 3), keepdims=True, dtype=jnp.int32) + count // 2) // count
    return jnp.broadcast_to(from_levels(mean, images), images.shape)


def smooth(images: Array) -> Array:
    """A 3x3 mean in which the middle counts five times; pixels at the border stay."""
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
    """Keeps so many bits of each level: ``bits [batch]`` int32, 0 to 8."""
    mask = (-jnp.left_shift(jnp.int32(1), 8 - bits))[:, None, None, None]
    return from_levels(levels(images) & mask, images)


def solarize(images: Array, threshold: Array) -> Array:
    """Inverts channels from a level on: ``threshold [batch]`` float32, of 255."""
    bound = threshold[:, None, None, None].astype(wide(images.dtype))
    bound = bound if images.dtype == jnp.uint8 else bound / 255
    return jnp.where(images.astype(bound.dtype) < bound, images, jnp.asarray(white(images), images.dtype) - images)


def autocontrast(images: Array) -> Array:
    """Stretches each channel until its darkest pixel is black and its brightest white.

    At most one level above Pillow, which computes in floating point what is a whole number at times.
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
    """Spreads each channel's levels so that about as many pixels have one as another, by Pillow's rule."""
    batch, height, width, channels = images.shape
    flat = jnp.moveaxis(levels(images).reshape(batch, height * width, channels), -1, 1)
    counts = jax.vmap(jax.vmap(_histogram))(flat)
    table = from_levels(jax.vmap(jax.vmap(_equal_levels))(counts), images)
    found = jnp.take_along_axis(table, flat, axis=-1, mode="promise_in_bounds")
    found = jnp.moveaxis(found, 1, -1).reshape(images.shape)
    # Levels that would stay keep what floating-point images hold between them.
    same = (table == from_levels(jnp.arange(256, dtype=jnp.int32), images)[None, None]).all(axis=-1)[:, None, None]
    return jnp.where(same, images, found)


def _histogram(flat: Array) -> Array:
    return jnp.zeros(256, jnp.int32).at[flat].add(1, mode="promise_in_bounds")


def _equal_levels(counts: Array) -> Array:
    """What becomes of each level: ``[256]`` -> ``[256]`` int32."""
    levels = jnp.arange(256, dtype=jnp.int32)
    brightest = jnp.where(counts > 0, levels, 0).max()
    step = (counts.sum() - counts[brightest]) // 255
    before = counts.cumsum() - counts
    table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, levels)


def levels(images: Array) -> Array:
    """The levels of channels, int32 of 0 to 255; the nearest ones of floating-point images."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.int32)
    return jnp.clip(jnp.floor(rounded(images.astype(wide(images.dtype)) * 255) + 0.5), 0, 255).astype(jnp.int32)


def from_levels(whole: Array, like: Array) -> Array:
    """Levels as images of another's type."""
    return (
        whole.astype(like.dtype)
        if like.dtype == jnp.uint8
        else (whole.astype(wide(like.dtype)) / 255).astype(like.dtype)
    )
