"""Crops: of the padded image, and of a random rectangle that is resized."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.augment.affine import move_by, shifts
from jaxcomp.augment.augmentation import Augmentation, integers, uniforms
from jaxcomp.augment.labels import Labels
from jaxcomp.augment.resize import Window, resize
from jaxcomp.core.errors import ArgumentError

TRIES = 10


def pad_crop(padding: int = 4, *, fill: float = 0) -> Augmentation:
    """Pads images on all sides, then cuts them out again at a random place: moves them by up to ``padding`` pixels.

    Args:
      padding: pixels, 0 or more.
      fill: value of padding, in the images' own unit: 0 to 255 of uint8, 0 to 1 of floating point.

    Raises:
      ArgumentError: for a padding that is no number of pixels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> pad_crop(1)(jax.random.key(3), jnp.ones((1, 3, 3, 1), jnp.uint8))[0][0, :, :, 0].tolist()
      [[1, 1, 0], [1, 1, 0], [0, 0, 0]]

    Reference: He et al., Deep residual learning for image recognition, 2016, section 4.2.
    """
    if not isinstance(padding, int) or padding < 0:
        raise ArgumentError(f"pad_crop: padding must be a number of pixels, 0 or more, got {padding}")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        down, right = integers(uniforms(keys, 2), 2 * padding + 1) - padding
        return move_by(shifts(down, right), images, labels, fill)

    return Augmentation(f"pad_crop({padding}, fill={fill})", move)


def random_resized_crop(
    size: tuple[int, int] | None = None,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Augmentation:
    """Cuts out a random rectangle and resizes it, bilinearly and without aliasing; boxes and masks with it.

    The rectangle's share of the area is uniform, the logarithm of its width by its height too. Of ten drawn, the first
    that fits is taken, and the largest one in the middle if none does, as in torchvision. uint8 images are at most one
    level off Pillow's ``crop(...).resize(..., BILINEAR)``, whose weights are fixed-point numbers; masks take the pixel
    in which the middle of the new one lies.

    Args:
      size: height and width of the result; None: those of the images.
      scale: least and greatest share of the image's area, in (0, 1].
      ratio: least and greatest width by height, above 0.

    Raises:
      ArgumentError: for ranges that are none.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.full((1, 32, 32, 3), 7, jnp.uint8)
      >>> views, _ = random_resized_crop((16, 16))(jax.random.key(0), images)
      >>> views.shape, int(views.min()), int(views.max())
      ((1, 16, 16, 3), 7, 7)

    Reference: Szegedy et al., Going deeper with convolutions, 2015, section 6.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ArgumentError(
            f"random_resized_crop: scale must be shares of the area, 0 < least <= most <= 1, got {scale}"
        )
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ArgumentError(f"random_resized_crop: ratio must be widths by heights, 0 < least <= most, got {ratio}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ArgumentError(f"random_resized_crop: size must be a height and a width in pixels, got {size}")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        height, width = images.shape[1:3]
        window = _window(uniforms(keys, 4 * TRIES), height, width, scale, ratio)
        return resize(images, labels, window, size or (height, width))

    return Augmentation(f"random_resized_crop({size}, scale={scale}, ratio={ratio})", move)


def _window(drawn: Array, height: int, width: int, scale: Any, ratio: Any) -> Window:
    """Where to cut, of ``[4 TRIES, batch]`` uniform numbers."""
    own, fits = fitting(drawn, height, width, scale, ratio)
    tall, wide = _largest(height, width, ratio)
    middle = Window(*(jnp.int32(n) for n in ((height - tall) // 2, (width - wide) // 2, tall, wide)))
    return Window(*(jnp.where(fits, *pair) for pair in zip(own, middle, strict=True)))


def fitting(drawn: Array, height: int, width: int, scale: Any, ratio: Any) -> tuple[Window, Array]:
    """Finds the first of some random rectangles that fits into an image.

    Args:
      drawn: ``[4 TRIES, batch]`` uniform numbers.
      height, width: of the images.
      scale: least and greatest share of the area.
      ratio: least and greatest width by height.

    Returns:
      The rectangle, and ``[batch]`` bool, whether one fits: else it is any.
    """
    share, shape, down, right = drawn.reshape(4, TRIES, -1)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(low + (high - low) * shape)
    tall, wide = (jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (area / aspect, area * aspect))
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = jnp.argmax(fits, axis=0)[None]
    tall, wide, down, right = (jnp.take_along_axis(x, first, axis=0)[0] for x in (tall, wide, down, right))
    top, left = integers(down, height - tall + 1), integers(right, width - wide + 1)
    return Window(top, left, tall, wide), fits.any(axis=0)


def _largest(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width < ratio[0] * height:
        return min(height, max(1, round(width / ratio[0]))), width
    return height, min(width, max(1, round(height * ratio[1])))
