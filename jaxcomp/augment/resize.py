"""Rectangles of images, resized: bilinear weights of Pillow's kind, which widen where an image gets smaller."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.augment.affine import enclosing
from jaxcomp.augment.labels import Labels
from jaxcomp.core.leaves import wide as wide_enough


class Window(NamedTuple):
    """A rectangle of each image.

    Attributes:
      top, left: its corner, ``[batch]`` int32, in pixels.
      height, width: ``[batch]`` int32, in pixels.
    """

    top: Array
    left: Array
    height: Array
    width: Array


def resize(images: Array, labels: Labels, window: Window, size: tuple[int, int]) -> tuple[Array, Labels]:
    """Crops windows and resizes them bilinearly, with boxes and masks.

    Args:
      images: ``[batch, h, w, c]``.
      labels: of these images.
      window: a rectangle of each image.
      size: height and width of the result.

    Returns:
      ``[batch, *size, c]`` of the same dtype, and the labels moved.
    """
    masks, boxes = labels.masks, labels.boxes
    if masks is not None:
        rows = _nearest(window.top, window.height, size[0])
        columns = _nearest(window.left, window.width, size[1])
        masks = jnp.take_along_axis(masks, rows[:, :, None], axis=1)
        masks = jnp.take_along_axis(masks, columns[:, None, :], axis=2)
    if boxes is not None:
        down, right = (start.astype(jnp.float32)[:, None, None] for start in window[:2])
        tall, broad = (n.astype(jnp.float32)[:, None, None] for n in window[2:])
        real = boxes.astype(jnp.float32)
        x, y = (real[..., ::2] - right) * size[1] / broad, (real[..., 1::2] - down) * size[0] / tall
        boxes = enclosing(x, y, *size).astype(boxes.dtype)
    return _resized(images, window, size), Labels(labels.classes, boxes, masks)


def _nearest(start: Array, length: Array, size: int) -> Array:
    middles = 2 * jnp.arange(size, dtype=jnp.int32)[None] + 1
    return start[:, None] + middles * length[:, None] // (2 * size)


def _resized(images: Array, window: Window, size: tuple[int, int]) -> Array:
    """Rows first, then columns; uint8 is rounded after each, as Pillow rounds."""
    kind = wide_enough(images.dtype)
    across = _bilinear_weights(window.left, window.width, images.shape[2], size[1]).astype(kind)
    along = _bilinear_weights(window.top, window.height, images.shape[1], size[0]).astype(kind)
    x = images.astype(kind)
    for equation, weights in (("bow,bhwc->bhoc", across), ("boh,bhwc->bowc", along)):
        x = jnp.einsum(equation, weights, x, precision=lax.Precision.HIGHEST)
        x = jnp.floor(x + 0.5) if images.dtype == jnp.uint8 else x
    return jnp.clip(x, 0, 255 if images.dtype == jnp.uint8 else 1).astype(images.dtype)


def _bilinear_weights(start: Array, length: Array, before: int, after: int) -> Array:
    """Returns the weight of each pixel in each pixel of the result: ``[batch, after, before]`` float32; rows sum to 1.

    Args:
      start, length: ``[batch]`` int32: the pixels that are resized; others do not count.
      before, after: pixels of the image, and of the result.

    Example:
      >>> _bilinear_weights(jnp.array([1]), jnp.array([2]), 4, 1).tolist()
      [[[0.0, 0.5, 0.5, 0.0]]]
    """
    step = length.astype(jnp.float32)[:, None, None] / after
    places = jnp.arange(before, dtype=jnp.int32)[None, None]
    middles = (places - start[:, None, None]).astype(jnp.float32) + 0.5
    centers = (jnp.arange(after, dtype=jnp.float32)[None, :, None] + 0.5) * step
    weights = jnp.maximum(1 - jnp.abs(middles - centers) / jnp.maximum(step, 1), 0)
    inside = (places >= start[:, None, None]) & (places < (start + length)[:, None, None])
    weights = jnp.where(inside, weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)
