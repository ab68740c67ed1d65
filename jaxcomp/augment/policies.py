"""RandAugment and TrivialAugment: one of fourteen operations for each image, as strong as published."""

from collections.abc import Callable, Sequence

import numpy as np
from jax import Array

from jaxcomp.augment.augmentation import Augmentation, checked_channels, integers, parted, uniforms
from jaxcomp.augment.labels import Labels
from jaxcomp.augment.operations import OPERATIONS, SIGNED, of_images, operate, settings
from jaxcomp.core.errors import ArgumentError

BINS = 31
"""Magnitudes go from 0 to 30."""

Range = Callable[[str, int, int, int], float]
"""``(operation, bin, height, width) -> magnitude``."""


def rand_augment(
    count: int = 2, magnitude: int = 9, *, operations: Sequence[str] = OPERATIONS, fill: float = 0
) -> Augmentation:
    """Applies ``count`` operations to each image, each drawn from fourteen, all of one magnitude.

    identity, shear_x, shear_y, translate_x, translate_y, rotate, brightness, color, contrast, sharpness, posterize,
    solarize, autocontrast and equalize, with Pillow's result on uint8 images. At magnitude 30 a shear is by 0.3, a
    translation by 150/331 of the side, a rotation by 30 degrees, a factor 1.9 or 0.1; posterize keeps 4 bits, solarize
    inverts all. These are torchvision's ranges, from AutoAugment's.

    Args:
      count: operations an image, 0 or more.
      magnitude: 0 to 30.
      operations: some of ``jc.augment.OPERATIONS``.
      fill: of pixels from outside of the image, in the images' own unit: 0 to 255 of uint8, 0 to 1 of floating point.

    Raises:
      ArgumentError: for what is out of range; on calling, for images of other than 1 or 3 channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> views = rand_augment(1, 30, operations=["solarize"])
      >>> views(jax.random.key(0), jnp.full((1, 1, 1, 1), 100, jnp.uint8))[0].item()
      155

    Reference: Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2020.
    """
    if not isinstance(count, int) or count < 0:
        raise ArgumentError(f"rand_augment: count must be a number of operations, 0 or more, got {count}")
    if not isinstance(magnitude, int) or not 0 <= magnitude < BINS:
        raise ArgumentError(f"rand_augment: magnitude must be an integer from 0 to {BINS - 1}, got {magnitude}")
    text = f"rand_augment({count}, {magnitude}{_said(operations, fill)})"
    return _policy(text, count, [magnitude], _rand_ranges, operations, fill)


def trivial_augment(*, operations: Sequence[str] = OPERATIONS, fill: float = 0) -> Augmentation:
    """Applies one operation to each image, of a random magnitude: TrivialAugment with its wide ranges.

    The operations are those of :func:`rand_augment`. The magnitude is one of 31, up to: a shear by 0.99, a translation
    by 32 pixels, a rotation by 135 degrees, a factor 1.99 or 0.01, 2 bits kept, all inverted.

    Args:
      operations, fill: of :func:`rand_augment`.

    Raises:
      ArgumentError: for what is out of range; on calling, for images of other than 1 or 3 channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> trivial_augment()(jax.random.key(0), jnp.ones((4, 8, 8, 3), jnp.uint8))[0].shape
      (4, 8, 8, 3)

    Reference: Müller and Hutter, TrivialAugment: Tuning-free yet state-of-the-art data augmentation, 2021.
    """
    text = f"trivial_augment({_said(operations, fill).removeprefix(', ')})"
    return _policy(text, 1, range(BINS), _wide_ranges, operations, fill)


def _policy(
    text: str, count: int, bins: Sequence[int], ranges: Range, operations: Sequence[str], fill: float
) -> Augmentation:
    name = text.partition("(")[0]
    operations = [operations] if isinstance(operations, str) else list(operations)
    if not operations or (unknown := [each for each in operations if each not in OPERATIONS]):
        what = f"unknown {unknown}" if operations else "got none"
        raise ArgumentError(f"{name}: operations must be some of {', '.join(OPERATIONS)}: {what}")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        height, width = images.shape[1:3]
        entries = [
            (each, sign * ranges(each, step, height, width) if each in SIGNED else ranges(each, step, height, width))
            for each in operations
            for step in bins
            for sign in (1, -1)
        ]
        table = settings(entries, height, width)
        for turn in range(count):
            entry = integers(uniforms(parted(keys, turn), 1)[0], len(entries))
            images, labels = operate(of_images(table, entry), images, labels, fill=fill, among=operations)
        return images, labels

    return Augmentation(text, move, lambda images, labels: checked_channels(images, name))


def _rand_ranges(operation: str, step: int, height: int, width: int) -> float:
    part = step / (BINS - 1)
    match operation:
        case "shear_x" | "shear_y":
            return 0.3 * part
        case "translate_x" | "translate_y":
            return int(150 / 331 * (width if operation == "translate_x" else height) * part)
        case "rotate":
            return 30 * part
        case "posterize":
            return 8 - np.round(4 * part)
        case "solarize":
            return 255 * (BINS - 1 - step) / (BINS - 1)
    return 0.9 * part


def _wide_ranges(operation: str, step: int, height: int, width: int) -> float:
    part = step / (BINS - 1)
    match operation:
        case "shear_x" | "shear_y":
            return 0.99 * part
        case "translate_x" | "translate_y":
            return int(32 * part)
        case "rotate":
            return 135 * part
        case "posterize":
            return 8 - np.round(6 * part)
        case "solarize":
            return 255 * (BINS - 1 - step) / (BINS - 1)
    return 0.99 * part


def _said(operations: Sequence[str], fill: float) -> str:
    own = "" if tuple(operations) == OPERATIONS else f", operations={list(operations)}"
    return own + (f", fill={fill}" if fill else "")
