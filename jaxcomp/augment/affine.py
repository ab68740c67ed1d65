"""Moves of images by an affine map, to the nearest pixel, in Pillow's fixed-point numbers; boxes and masks too."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.augment.labels import Labels

ONE = 1 << 16
"""1 in the numbers of 16 binary places in which Pillow finds a pixel's source."""


def fixed(matrix: np.ndarray) -> np.ndarray:
    """Computes the fixed-point map from a place in the result to its source, as Pillow rounds it.

    Args:
      matrix: ``[..., 6]`` float64: ``(a, b, c, d, e, f)``, of which the source of ``(x, y)`` is
        ``(a x + b y + c, d x + e y + f)``, in pixels from the image's left upper corner.

    Returns:
      ``[..., 6]`` int32, of pixels' indices: from a pixel's middle to the pixel that its source is in.

    Example:
      >>> (fixed(np.array([1.0, 0, 3, 0, 1, 0])) / ONE).tolist()
      [1.0, 0.0, 3.5, 0.0, 1.0, 0.5]
    """
    a, b, c, d, e, f = np.moveaxis(np.asarray(matrix, np.float64), -1, 0)
    middles = np.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], axis=-1)
    return np.floor(middles * ONE + 0.5).astype(np.int32)


def shifts(down: Array, right: Array) -> Array:
    """Builds affine maps ``[batch, 6]`` int32 that move images ``down`` and ``right`` by ``[batch]`` whole pixels.

    Example:
      >>> (shifts(jnp.array([2]), jnp.array([1]))[0] / ONE).tolist()
      [1.0, 0.0, -0.5, 0.0, 1.0, -1.5]
    """
    one, none = jnp.full_like(down, ONE), jnp.zeros_like(down)
    return jnp.stack([one, none, ONE // 2 - right * ONE, none, one, ONE // 2 - down * ONE], axis=-1)


def move_by(matrix: Array, images: Array, labels: Labels, fill: float) -> tuple[Array, Labels]:
    """Moves each image, with its boxes and its mask.

    Args:
      matrix: ``[batch, 6]`` int32, from :func:`fixed`.
      images: ``[batch, h, w, c]``.
      labels: of these images.
      fill: value of pixels whose source is outside the image.

    Returns:
      Images and labels of the shapes and types that came.

    Example:
      >>> moved, _ = move_by(shifts(jnp.array([0]), jnp.array([1])), jnp.array([[[[5], [6]]]]), Labels(), 0)
      >>> moved.ravel().tolist()
      [0, 5]
    """
    source, inside = _sources(matrix, *images.shape[1:3])
    masks = labels.masks
    if masks is not None:
        masks = _taken(masks[..., None], source, inside, 0)[..., 0]
    boxes = labels.boxes
    if boxes is not None:
        boxes = _move_boxes(matrix, boxes, *images.shape[1:3])
    return _taken(images, source, inside, fill), Labels(labels.classes, boxes, masks)


def _sources(matrix: Array, height: int, width: int) -> tuple[Array, Array]:
    """The source of each pixel, an index into the rows laid end to end, and whether it is in the image."""
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    x, y = jnp.arange(width, dtype=jnp.int32)[None, None], jnp.arange(height, dtype=jnp.int32)[None, :, None]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return jnp.where(inside, row * width + column, 0), inside


def _taken(images: Array, source: Array, inside: Array, fill: float) -> Array:
    batch, height, width, channels = images.shape
    flat, index = images.reshape(batch, height * width, channels), source.reshape(batch, -1, 1)
    moved = jnp.take_along_axis(flat, index, axis=1, mode="promise_in_bounds").reshape(images.shape)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, images.dtype))


def _move_boxes(matrix: Array, boxes: Array, height: int, width: int) -> Array:
    real = boxes.astype(jnp.float32)
    a, b, c, d, e, f = (matrix[:, i, None, None].astype(jnp.float32) / ONE for i in range(6))
    c, f = c - (a + b) / 2, f - (d + e) / 2  # from middles back to corners
    x, y = real[..., jnp.array([0, 2, 0, 2])] - c, real[..., jnp.array([1, 1, 3, 3])] - f
    area = a * e - b * d
    return enclosing((e * x - b * y) / area, (a * y - d * x) / area, height, width).astype(boxes.dtype)


def enclosing(x: Array, y: Array, height: int, width: int) -> Array:
    """Returns the smallest upright boxes around corners, clipped at the borders.

    Args:
      x, y: ``[batch, n, corners]``, in pixels.
      height, width: of the images.

    Returns:
      ``[batch, n, 4]``: left, top, right, bottom.

    Example:
      >>> enclosing(jnp.array([[[3.0, -1.0]]]), jnp.array([[[2.0, 9.0]]]), 4, 8).tolist()
      [[[0.0, 2.0, 3.0, 4.0]]]
    """
    x, y = jnp.clip(x, 0, width), jnp.clip(y, 0, height)
    return jnp.stack([x.min(-1), y.min(-1), x.max(-1), y.max(-1)], axis=-1)
