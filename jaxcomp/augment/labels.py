"""Labels of a batch of images: classes, boxes and masks, of which geometric operations move the latter two."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.errors import ArgumentError


class Labels(NamedTuple):
    """Labels of each image of a batch; None for what is not known. Classes alone need no ``Labels``: give the array.

    Attributes:
      classes: ``[batch]`` integers, below 0 where there is no label, or ``[batch, classes]`` probabilities.
      boxes: ``[batch, n, 4]`` floating point: left, top, right, bottom in pixels, from the image's left upper corner,
        so that the whole image is ``(0, 0, width, height)``. A box is moved with its four corners, becomes the
        smallest upright box around them, and is cut off at the borders: one that has left the image has no area.
      masks: ``[batch, height, width]`` of any type: a number a pixel, moved to the nearest pixel. What comes in from
        outside of the image is 0.

    Example:
      >>> import jaxcomp as jc
      >>> labels = Labels(boxes=jnp.array([[[0.0, 0.0, 2.0, 1.0]]]))
      >>> images = jnp.zeros((1, 4, 8, 3), jnp.uint8)
      >>> jc.augment.flip(1.0)(jax.random.key(0), images, labels)[1].boxes.tolist()
      [[[6.0, 0.0, 8.0, 1.0]]]
    """

    classes: Any = None
    boxes: Any = None
    masks: Any = None


def checked_labels(labels: Any, images: Array) -> Labels:
    """Converts labels to arrays that fit a batch of images.

    Args:
      labels: classes, :class:`Labels`, or None.
      images: ``[batch, height, width, channels]``.

    Raises:
      ArgumentError: with what was needed and what came.
    """
    if not isinstance(labels, Labels):
        if not hasattr(labels, "shape") and labels is not None:
            raise ArgumentError(
                "labels must be an array of classes, jc.augment.Labels(classes=, boxes=, masks=) or None, "
                f"got {type(labels).__name__}: lists and numbers become arrays by jnp.asarray"
            )
        labels = Labels(labels)
    batch, height, width, _ = images.shape
    classes, boxes, masks = (None if part is None else jnp.asarray(part) for part in labels)
    if classes is not None:
        _check_classes(classes, batch)
    if boxes is not None and (
        boxes.ndim != 3 or boxes.shape[::2] != (batch, 4) or not jnp.issubdtype(boxes.dtype, jnp.floating)
    ):
        raise ArgumentError(
            f"boxes must be floating point of shape [{batch}, n, 4] (left, top, right, bottom in pixels), "
            f"got {_described(boxes)}"
        )
    if masks is not None and masks.shape != (batch, height, width):
        raise ArgumentError(
            f"masks must be of shape [{batch}, {height}, {width}], a number a pixel, got {_described(masks)}"
        )
    return Labels(classes, boxes, masks)


def _check_classes(classes: Array, batch: int) -> None:
    whole, real = (jnp.issubdtype(classes.dtype, kind) for kind in (jnp.integer, jnp.floating))
    if classes.shape[:1] != (batch,) or not ((whole and classes.ndim == 1) or (real and classes.ndim == 2)):
        raise ArgumentError(
            f"classes must be integers of shape [{batch}] or probabilities of shape [{batch}, classes], "
            f"got {_described(classes)}"
        )


def probabilities(classes: Array, count: int | None, name: str) -> Array:
    """Converts classes to ``[batch, count]`` float32 or wider; no label is a row of zeros, which costs no loss.

    Args:
      classes: ``[batch]`` integers, or probabilities, which stay.
      count: of classes; None: the classes must be probabilities.
      name: of the function that asks.

    Raises:
      ArgumentError: if the count is needed and not given, differs, or (outside of jit) a class is not below it.

    Example:
      >>> probabilities(jnp.array([1, -1]), 2, "mixup").tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    if classes.ndim == 2:
        if count not in (None, classes.shape[1]):
            raise ArgumentError(f"{name}(classes={count}) was given probabilities of {classes.shape[1]} classes")
        return classes
    if count is None:
        raise ArgumentError(f"{name} makes probabilities of integer classes and must know how many: {name}(classes=10)")
    greatest = _greatest(classes)
    if greatest is not None and greatest >= count:
        raise ArgumentError(
            f"{name}(classes={count}) was given class {greatest}: classes count from 0, and an image "
            "without a label has -1"
        )
    return (classes[:, None] == jnp.arange(count, dtype=jnp.int32)[None].astype(classes.dtype)).astype(jnp.float32)


def _greatest(classes: Array) -> int | None:
    """The greatest class; None where it cannot be seen. On the host: what a traced function closes over can be, too."""
    if isinstance(classes, jax.core.Tracer) or not classes.size or not getattr(classes, "is_fully_addressable", True):
        return None
    return int(np.max(np.asarray(classes)))


def _described(array: Any) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"
