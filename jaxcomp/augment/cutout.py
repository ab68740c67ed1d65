"""Squares that are blanked out."""

import jax.numpy as jnp
from jax import Array

from jaxcomp.augment.augmentation import Augmentation, integers, uniforms
from jaxcomp.augment.labels import Labels
from jaxcomp.core.errors import ArgumentError


def cutout(size: int, *, fill: float = 0) -> Augmentation:
    """Blanks out a square of each image, about a random pixel; near the borders less of it is in the image.

    Published: 16 pixels on CIFAR-10, 8 on CIFAR-100, 20 on SVHN; black after normalizing, which is the mean before it.

    Args:
      size: the square's side in pixels, 0 or more.
      fill: value of its pixels, in the images' own unit: 0 to 255 of uint8, 0 to 1 of floating point.

    Raises:
      ArgumentError: for a size that is no number of pixels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> cutout(2)(jax.random.key(0), jnp.ones((1, 3, 3, 1), jnp.uint8))[0][0, :, :, 0].tolist()
      [[1, 1, 1], [0, 1, 1], [0, 1, 1]]

    Reference: DeVries and Taylor, Improved regularization of convolutional neural networks with cutout, 2017.
    """
    if not isinstance(size, int) or size < 0:
        raise ArgumentError(f"cutout: size must be a number of pixels, 0 or more, got {size}")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        height, width = images.shape[1:3]
        down, right = uniforms(keys, 2)
        inside = within(height, width, integers(down, height), integers(right, width), size, size)
        return jnp.where(inside[..., None], jnp.asarray(fill, images.dtype), images), labels

    return Augmentation(f"cutout({size}, fill={fill})", move)


def within(height: int, width: int, row: Array, column: Array, tall: Array | int, broad: Array | int) -> Array:
    """Marks the pixels of a rectangle centered on a pixel.

    Args:
      height, width: of the images.
      row, column: ``[batch]`` int32: the center, before which half of the rectangle begins.
      tall, broad: the rectangle's sides in pixels, ``[batch]`` int32 or an int.

    Returns:
      ``[batch, height, width]`` bool.

    Example:
      >>> within(1, 5, jnp.array([0]), jnp.array([2]), 1, 2).astype(int).ravel().tolist()
      [0, 1, 1, 0, 0]
    """
    return rectangle(height, width, row - tall // 2, column - broad // 2, tall, broad)


def rectangle(height: int, width: int, top: Array, left: Array, tall: Array | int, broad: Array | int) -> Array:
    """Marks the pixels of a rectangle with a corner.

    Args:
      height, width: of the images.
      top, left: ``[batch]`` int32: its upper left corner, in pixels.
      tall, broad: its sides in pixels, ``[batch]`` int32 or an int.

    Returns:
      ``[batch, height, width]`` bool.

    Example:
      >>> rectangle(1, 5, jnp.array([0]), jnp.array([2]), 1, 2).astype(int).ravel().tolist()
      [0, 0, 1, 1, 0]
    """
    y, x = jnp.arange(height, dtype=jnp.int32)[None], jnp.arange(width, dtype=jnp.int32)[None]
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
    columns = (x >= left[:, None]) & (x < (left + broad)[:, None])
    return rows[:, :, None] & columns[:, None, :]
