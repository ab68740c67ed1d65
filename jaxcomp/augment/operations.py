"""The fourteen operations of RandAugment and TrivialAugment, each image's own in one pass over the batch.

A switch under vmap computes all its branches for every image. Here fourteen are few: those that move pixels are one
affine map, those that blend differ in what is blended with, the last four change each level by itself. An image takes
the result that is its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.augment import color
from jaxcomp.augment.affine import fixed, move_by
from jaxcomp.augment.labels import Labels

MOVES = ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
LEVELS = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = (*MOVES, *BLENDS, *LEVELS)
SIGNED = {*MOVES[1:], *BLENDS}
"""Operations whose magnitude is as likely negative; that of a blend is added to 1."""


class Settings(NamedTuple):
    """Operations to apply, an entry each; NumPy arrays, or those of a batch.

    Attributes:
      operation: ``[n]`` int32, an index of :data:`OPERATIONS`.
      matrix: ``[n, 6]`` int32, where pixels come from: :func:`jaxcomp.augment.affine.fixed`.
      factor: ``[n]`` float32, of a blend.
      bits: ``[n]`` int32, that posterize keeps.
      threshold: ``[n]`` float32, from which solarize inverts, of 255.
    """

    operation: Array | np.ndarray
    matrix: Array | np.ndarray
    factor: Array | np.ndarray
    bits: Array | np.ndarray
    threshold: Array | np.ndarray


def settings(named: Sequence[tuple[str, float]], height: int, width: int) -> Settings:
    """Converts operations and magnitudes to the numbers they are computed with: on the host, in float64.

    Args:
      named: ``(operation, magnitude)``: shears as a slope, translations in pixels to the right or down, rotations in
        degrees counter-clockwise, blends as what is added to a factor of 1, posterize in bits kept, solarize as the
        level (0 to 255) from which channels are inverted; the others have none.
      height, width: of the images.

    Returns:
      An entry for each operation, ``n = len(named)``.

    Example:
      >>> settings([("brightness", -0.25), ("identity", 0)], 8, 8).factor.tolist()
      [0.75, 1.0]
    """
    return Settings(
        np.array([OPERATIONS.index(name) for name, _ in named], np.int32),
        fixed(np.array([_matrix(name, magnitude, height, width) for name, magnitude in named])),
        np.array([1 + magnitude if name in BLENDS else 1 for name, magnitude in named], np.float32),
        np.array([magnitude if name == "posterize" else 8 for name, magnitude in named], np.int32),
        np.array([magnitude if name == "solarize" else 256 for name, magnitude in named], np.float32),
    )


def _matrix(name: str, magnitude: float, height: int, width: int) -> tuple[float, ...]:
    """Where ``(x, y)`` comes from, as AutoAugment's authors and Pillow's ``rotate`` have it."""
    match name:
        case "shear_x":
            return 1, magnitude, 0, 0, 1, 0
        case "shear_y":
            return 1, 0, 0, magnitude, 1, 0
        case "translate_x":
            return 1, 0, -magnitude, 0, 1, 0
        case "translate_y":
            return 1, 0, 0, 0, 1, -magnitude
        case "rotate":
            # Pillow's rounding, without which a right angle would be none.
            cos, sin = (round(f(-math.radians(magnitude % 360)), 15) for f in (math.cos, math.sin))
            x, y = width / 2, height / 2
            return cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y
    return 1, 0, 0, 0, 1, 0


def operate(
    chosen: Settings, images: Array, labels: Labels, *, fill: float = 0, among: Sequence[str] = OPERATIONS
) -> tuple[Array, Labels]:
    """Applies to each image the operation chosen for it.

    Args:
      chosen: settings of each image, ``n = batch``.
      images: ``[batch, h, w, c]``, of 1 or 3 channels.
      labels: of these images; boxes and masks are moved.
      fill: value of pixels that come from outside the image.
      among: the operations that may be chosen; the program holds no others.

    Returns:
      Images and labels of the shapes and types that came.
    """
    found, moved = images, labels
    if {*MOVES[1:]} & {*among}:
        found, moved = move_by(jnp.asarray(chosen.matrix), images, labels, fill)
    operation = jnp.asarray(chosen.operation)[:, None, None, None]
    if own := [name for name in BLENDS if name in among]:
        blended = color.blend(_blended_with(own, operation, images), images, jnp.asarray(chosen.factor))
        found = jnp.where(_is(operation, own), blended, found)
    tables = {
        "posterize": lambda: color.posterize(images, jnp.asarray(chosen.bits)),
        "solarize": lambda: color.solarize(images, jnp.asarray(chosen.threshold)),
        "autocontrast": lambda: color.autocontrast(images),
        "equalize": lambda: color.equalize(images),
    }
    for name in LEVELS:
        if name in among:
            found = jnp.where(_is(operation, [name]), tables[name](), found)
    return found, moved


def _blended_with(names: Sequence[str], operation: Array, images: Array) -> Array:
    others: dict[str, Callable[[Array], Array]] = {
        "brightness": jnp.zeros_like,
        "color": color.gray,
        "contrast": color.mean_gray,
        "sharpness": color.smooth,
    }
    other = others[names[0]](images)
    for name in names[1:]:
        other = jnp.where(_is(operation, [name]), others[name](images), other)
    return other


def _is(operation: Array, names: Sequence[str]) -> Array:
    first, last = OPERATIONS.index(names[0]), OPERATIONS.index(names[-1])
    return (operation >= first) & (operation <= last)


def of_images(table: Settings, entry: Array) -> Settings:
    """Selects the settings of each image: entry ``entry[i]`` (``[batch]`` int32) of a ``table`` for image i."""
    return jax.tree.map(lambda column: jnp.asarray(column)[entry], table)
