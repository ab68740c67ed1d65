"""Augmentations one after another."""

from jax import Array

from jaxcomp.augment.augmentation import Augmentation, checked_augmentations, parted
from jaxcomp.augment.labels import Labels


def sequence(*augmentations: Augmentation) -> Augmentation:
    """Applies augmentations in turn, each with a key of its own, as one function.

    Args:
      *augmentations: first to last; none: images stay as they are.

    Raises:
      ArgumentError: for what is no augmentation.

    Example:
      >>> import jax, jax.numpy as jnp, jaxcomp as jc
      >>> views = sequence(jc.augment.pad_crop(4), jc.augment.flip())
      >>> views
      sequence(pad_crop(4, fill=0), flip(0.5))
      >>> images, labels = views(jax.random.key(0), jnp.zeros((2, 32, 32, 3), jnp.uint8), jnp.array([3, 7]))
      >>> images.shape, labels.tolist()
      ((2, 32, 32, 3), [3, 7])
    """
    checked_augmentations("sequence", augmentations)

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        for n, each in enumerate(augmentations):
            images, labels = each.move(parted(keys, n), images, labels)
        return images, labels

    def check(images: Array, labels: Labels) -> None:
        for each in augmentations:
            each.check(images, labels)

    return Augmentation(f"sequence({', '.join(map(repr, augmentations))})", move, check)
