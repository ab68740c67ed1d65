"""Segmentation: a class a pixel. Labels: ``[n, h, w]`` uint8, 255 for none; outputs: logits ``[b, h, w, classes]``."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train.common.checks import warn
from train.common.errors import UserError
from train.tasks import drawing, scenes
from train.tasks.classification import shapes
from train.tasks.task import Batch, Columns, Picture

NONE = 255
"""The label of a pixel that has no class: it is neither learned nor scored."""


class Segmentation:
    """As :class:`train.tasks.task.Task` has it."""

    name, metric, title, whole = "segmentation", "mean_iou", "mean IoU", False
    needs = "images, and beside them images of labels"

    def embedded(self, split: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Scenes of digits; class 0 is the background, 1 + d a pixel of ink of a digit d."""
        found = scenes.compose(split)
        return found.images, found.masks, 11

    def columns(self, features: Mapping[str, Any], keys: Sequence[str]) -> Columns | None:
        """The first feature beside the image that is one of a channel."""
        image = keys[0] if keys else "image"
        masks = [
            name
            for name, own in features.items()
            if name != image and len(getattr(own, "shape", None) or ()) == 3 and own.shape[-1] == 1
        ]
        if image not in features or not masks:
            return None
        return Columns(image, masks[0], getattr(features[masks[0]], "num_classes", None))

    def examples(self, image: np.ndarray, label: Any, size: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tiles side by side, so that each pixel is there once; what juts out of the image has no class."""
        mask = np.asarray(label).reshape(np.shape(label)[:2]).astype(np.uint8)
        if mask.shape != image.shape[:2]:
            raise ValueError(f"its labels are of {mask.shape} pixels, and its image of {image.shape[:2]}")
        if size is None:
            return [(image, mask)]
        rows, columns = (-(-side // size) for side in mask.shape)
        room = ((0, rows * size - mask.shape[0]), (0, columns * size - mask.shape[1]))
        image, mask = np.pad(image, (*room, (0, 0))), np.pad(mask, room, constant_values=NONE)
        corners = [(y * size, x * size) for y in range(rows) for x in range(columns)]
        return [(image[y : y + size, x : x + size], mask[y : y + size, x : x + size]) for y, x in corners]

    def stacked(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(labels)

    def check(self, where: str, images: Any, labels: np.ndarray, classes: int, learned: bool) -> None:
        if labels.shape != images.shape[:3]:
            raise UserError(f"{where} has labels of shape {labels.shape} for images of shape {images.shape}")
        wrong = ((labels >= classes) & (labels != NONE)).reshape(len(labels), -1).any(axis=1)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            value = labels[first][(labels[first] >= classes) & (labels[first] != NONE)][0]
            raise UserError(
                f"{where}: image {first} has a pixel of class {value}, and classes go from 0 to {classes - 1}, {NONE} "
                f"for none ({int(wrong.sum()):,} of {len(labels):,} images are wrong): mend them, or leave them out"
            )
        seen = np.bincount(labels.reshape(-1), minlength=256)[:classes]
        if learned and np.count_nonzero(seen) < 2:
            raise UserError(f"{where}: all pixels are of class {int(seen.argmax())}: there is nothing to tell apart")
        if missing := np.flatnonzero(seen == 0).tolist():
            warn(f"{where}: no pixel is of class {', '.join(map(str, missing))} (of {classes} classes)")

    def outputs(self, outputs: Any, images: Sequence[int], classes: int) -> None:
        needed = (1, *images[1:3], classes)
        if getattr(outputs, "shape", None) != needed:
            raise ValueError(
                f"segmentation needs logits of every pixel, {needed} of one image, got {shapes(outputs)}: name a "
                "segmenter, as 'unet'"
            )

    def moving(self, batch: Batch) -> Any:
        # What comes in from outside is 0: one more than each class, so that it is none.
        return jc.augment.Labels(masks=(batch["label"] + jnp.uint8(1)))

    def moved(self, labels: Any, batch: Batch) -> jax.Array:
        del batch
        return labels.masks - jnp.uint8(1)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Cross-entropy of the pixels, and one minus the overlap (soft Dice) of the classes, which rare ones need."""
        labels = batch["label"].astype(jnp.int32)
        counts = labels < outputs.shape[-1]
        entropy = jc.distill.per_position(jc.distill.cross_entropy(outputs, labels), where=counts)
        return entropy + 1 - overlap(jax.nn.softmax(outputs), labels, counts)

    def soft(self, outputs: jax.Array, targets: jax.Array, batch: Batch, temperature: float) -> jax.Array:
        """Divergence from the teacher's softened classes, pixel by pixel."""
        counts = batch["label"].astype(jnp.int32) < outputs.shape[-1]
        return jc.distill.per_position(jc.distill.kl(outputs, targets, temperature=temperature), where=counts)

    def right(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """The share of the labeled pixels whose largest logit is the label's."""
        labels = batch["label"].astype(jnp.int32)
        right = (jnp.argmax(outputs, -1) == labels).astype(jnp.float32)
        return jc.distill.per_position(right, where=labels < outputs.shape[-1])

    def predict(self, outputs: jax.Array, size: Sequence[int]) -> jax.Array:
        """Classes ``[batch, h, w]`` int16; -1 where a logit is NaN."""
        del size
        best = jnp.argmax(outputs, axis=-1).astype(jnp.int16)
        return jnp.where(jnp.isnan(outputs).any(axis=-1), jnp.int16(-1), best)

    def score(self, predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """The mean over classes of intersection over union, of all labeled pixels together, and that of each."""
        each = ious(predicted, labels)
        known = [value for value in each if value is not None]
        undefined = int((predicted < 0).any(axis=(1, 2)).sum())
        return {"mean_iou": float(np.mean(known)) if known else 0.0, "iou": each, "undefined": undefined}

    def pictures(self, images: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[Picture]:
        """Some images, their labels, and the answers before and after compression."""
        answers = [labels, before, after]
        return [Picture("Pixels", functools.partial(drawing.masks, images, *answers), "pictures.png")]


SEGMENTATION = Segmentation()


def overlap(probabilities: jax.Array, labels: jax.Array, counts: jax.Array) -> jax.Array:
    r"""The soft Dice overlap, averaged over the classes that an image has: ``[batch]``.

    :math:`2 \sum p y / (\sum p + \sum y)` over the pixels that count.

    Args:
      probabilities: ``[batch, h, w, classes]``.
      labels: ``[batch, h, w]`` int32.
      counts: ``[batch, h, w]`` bools.

    Reference: Milletari et al., V-Net, 2016.
    """
    hot = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=probabilities.dtype)
    own = probabilities * counts[..., None].astype(probabilities.dtype)
    both, sizes = jnp.sum(own * hot, axis=(1, 2)), jnp.sum(own, axis=(1, 2)) + jnp.sum(hot, axis=(1, 2))
    there = jnp.any(hot > 0, axis=(1, 2))
    dice = jnp.where(there, 2 * both / jnp.maximum(sizes, 1e-6), 0)
    return jnp.sum(dice, axis=-1) / jnp.maximum(jnp.sum(there, axis=-1), 1)


def ious(predicted: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """Intersection over union of each class, over all images together; None of a class that is nowhere.

    Args:
      predicted: ``[n, h, w]`` integers; below 0 for no answer.
      labels: ``[n, h, w]``; pixels at 255 do not count.

    Example:
      >>> ious(np.array([[[0, 1, 1]]]), np.array([[[0, 0, 1]]]))
      [0.5, 0.5]
    """
    counts = labels != NONE
    truth, found = labels[counts].astype(np.int64), predicted[counts].astype(np.int64)
    classes = 1 + int(max(truth.max(initial=0), found.max(initial=0)))
    pairs = np.bincount(truth * (classes + 1) + np.where(found < 0, classes, found), minlength=classes * (classes + 1))
    table = pairs.reshape(classes, classes + 1)
    both = np.diag(table)
    union = table.sum(axis=1) + table[:, :classes].sum(axis=0) - both
    return [float(b / u) if u else None for b, u in zip(both, union, strict=True)]
