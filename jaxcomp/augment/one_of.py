"""One of several augmentations for each image."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.augment.augmentation import Augmentation, checked_augmentations, integers, parted, uniforms
from jaxcomp.augment.labels import Labels
from jaxcomp.core.errors import ArgumentError


def one_of(*augmentations: Augmentation) -> Augmentation:
    """Applies one of several augmentations to each image, each as likely as the others.

    All are computed: ``rand_augment`` and ``trivial_augment`` choose among operations at the cost of one.

    Args:
      *augmentations: one or more, which give images and labels of the same shapes and types.

    Raises:
      ArgumentError: for what is no augmentation, and none; on calling, for results that differ in shape or type.

    Example:
      >>> import jax, jax.numpy as jnp, jaxcomp as jc
      >>> mixed = one_of(jc.augment.mixup(0.8, classes=10), jc.augment.cutmix(1.0, classes=10))
      >>> images, labels = mixed(jax.random.key(0), jnp.zeros((2, 32, 32, 3), jnp.uint8), jnp.array([3, 7]))
      >>> images.shape, labels.shape
      ((2, 32, 32, 3), (2, 10))

    Reference: Touvron et al., Training data-efficient image transformers and distillation through attention, 2021: its
    recipe mixes images by mixup or by CutMix.
    """
    checked_augmentations("one_of", augmentations)
    if not augmentations:
        raise ArgumentError("one_of: one augmentation or more is needed, got none")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        choice = integers(uniforms(parted(keys, len(augmentations)), 1)[0], len(augmentations))
        found = [each.move(parted(keys, n), images, labels) for n, each in enumerate(augmentations)]
        kinds = [jax.tree.map(lambda x: f"{x.dtype}[{','.join(map(str, x.shape))}]", each) for each in found]
        if any(kind != kinds[0] for kind in kinds):
            told = "; ".join(f"{each} gives {kind}" for each, kind in zip(augmentations, kinds, strict=True))
            raise ArgumentError(f"one_of: all must give images and labels of the same shapes and types, got {told}")

        def chosen(*each: Array) -> Array:
            own = choice.reshape(-1, *(1 for _ in each[0].shape[1:]))
            result = each[0]
            for n, other in enumerate(each[1:], 1):
                result = jnp.where(own == n, other, result)
            return result

        made: tuple[Array, Labels] = jax.tree.map(chosen, *found)
        return made

    def check(images: Array, labels: Labels) -> None:
        for each in augmentations:
            each.check(images, labels)

    return Augmentation(f"one_of({', '.join(map(repr, augmentations))})", move, check)
