"""Mirror images, left for right."""

import jax.numpy as jnp
from jax import Array

from jaxcomp.augment.augmentation import Augmentation, checked_probability, uniforms
from jaxcomp.augment.labels import Labels


def flip(probability: float = 0.5) -> Augmentation:
    """Mirrors images left for right, each with a probability; boxes and masks with them.

    Args:
      probability: in [0, 1].

    Raises:
      ArgumentError: for a probability out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.arange(3, dtype=jnp.uint8).reshape(1, 1, 3, 1)
      >>> flip(1.0)(jax.random.key(0), images)[0].ravel().tolist()
      [2, 1, 0]
    """
    checked_probability("flip: probability", probability)

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        mirrored = uniforms(keys, 1)[0] < probability
        width = images.shape[2]
        boxes, masks = labels.boxes, labels.masks
        if boxes is not None:
            left, right = width - boxes[..., 2], width - boxes[..., 0]
            turned = jnp.stack([left, boxes[..., 1], right, boxes[..., 3]], axis=-1)
            boxes = jnp.where(mirrored[:, None, None], turned, boxes)
        if masks is not None:
            masks = jnp.where(mirrored[:, None, None], masks[:, :, ::-1], masks)
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return images, Labels(labels.classes, boxes, masks)

    return Augmentation(f"flip({probability})", move)
