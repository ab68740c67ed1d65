"""Augmentations that are held to all laws, and batches for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import augment

CLASSES = 5
KEY = jax.random.key(7)
MIXING = {
    "mixup": augment.mixup(0.4, classes=CLASSES),
    "cutmix": augment.cutmix(classes=CLASSES),
    "one_of": augment.one_of(augment.mixup(0.8, classes=CLASSES), augment.cutmix(classes=CLASSES)),
}
SINGLE = {
    "flip": augment.flip(),
    "pad_crop": augment.pad_crop(2),
    "random_resized_crop": augment.random_resized_crop(),
    "cutout": augment.cutout(4),
    "random_erasing": augment.random_erasing(0.7),
    "color_jitter": augment.color_jitter(0.8, 0.8, 0.8, 0.2),
    "rand_augment": augment.rand_augment(1),
    "trivial_augment": augment.trivial_augment(operations=["rotate", "contrast"]),
    "normalize": augment.normalize([0.5], [0.25]),
    "sequence": augment.sequence(augment.pad_crop(1), augment.flip(), augment.cutout(2)),
}
ALL = {**SINGLE, **MIXING}
GEOMETRIC = ("flip", "pad_crop", "random_resized_crop", "rand_augment", "trivial_augment", "sequence")


def batch(size: int = 16, channels: int = 3, dtype: Any = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Images of 8x10 pixels and their classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 8, 10, channels), np.uint8)
    labels = rng.integers(0, CLASSES, size, np.int32)
    return images if dtype == np.uint8 else np.asarray(jnp.asarray(images / np.float32(255), dtype)), labels


def same(found: Any, expected: Any) -> None:
    """Asserts that two results are the same to the bit."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == other.dtype
        np.testing.assert_array_equal(own, other)
