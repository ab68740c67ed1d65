"""Detection: a box and a class for each object. Labels are ``[n, most, 5]`` float32, answers ``[n, 100, 6]``.

A row of a label is left, top, right and bottom in pixels and the class, -1 for no object; one of an answer has the
score besides, 0 for no box.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train.common.checks import warn
from train.common.errors import UserError
from train.tasks import anchors, centers, drawing, scenes
from train.tasks.boxes import detections
from train.tasks.classification import shapes
from train.tasks.precision import mean_precision
from train.tasks.task import Batch, Columns, Picture

KEEP, OVERLAP, CANDIDATES = 100, 0.6, 300
"""Boxes of an image, the overlap above which one of two of a class is dropped, and how many are looked at."""
ROUNDING = 1e-3
"""By which a box may jut out of its image, as a share of it: files round."""


class Detection:
    """As :class:`train.tasks.task.Task` has it."""

    name, metric, title, whole = "detection", "map50", "mAP@0.5", False
    needs = "images, and objects that have a bounding box and a class label each"

    def embedded(self, split: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Scenes of digits; each digit is an object of its class."""
        found = scenes.compose(split)
        return found.images, self.stacked(found.boxes), 10

    def columns(self, features: Mapping[str, Any], keys: Sequence[str]) -> Columns | None:
        """The first sequence of boxes with classes."""
        image = keys[0] if keys else "image"
        inner: dict[str, Any] = {name: getattr(own, "feature", None) for name, own in features.items()}
        parts = {name: dict(own) for name, own in inner.items() if hasattr(own, "keys")}
        for name, own in parts.items():
            if image in features and "bbox" in own and hasattr(own.get("label"), "num_classes"):
                return Columns(image, name, own["label"].num_classes)
        return None

    def examples(self, image: np.ndarray, label: Any, size: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """The whole image, both sides resized to one length, and its boxes with it."""
        shares = np.asarray(label["bbox"], np.float64).reshape(-1, 4)  # TFDS: top, left, bottom, right, in [0, 1]
        kinds = np.asarray(label["label"], np.float64).reshape(-1)
        if len(kinds) != len(shares):
            raise ValueError(f"it has {len(shares)} boxes and {len(kinds)} classes")
        for number, (top, left, bottom, right) in enumerate(shares):
            if not (min(top, left) >= -ROUNDING and max(bottom, right) <= 1 + ROUNDING):
                raise ValueError(f"box {number} is outside of the image: {_box(top, left, bottom, right)}")
            if not (top < bottom and left < right):
                raise ValueError(f"box {number} has no area: {_box(top, left, bottom, right)}")
        resized = image if size is None else _squeezed(image, size)
        height, width = resized.shape[:2]
        pixels = np.clip(shares[:, [1, 0, 3, 2]], 0, 1) * [width, height, width, height]
        return [(resized, np.concatenate([pixels, kinds[:, None]], axis=1).astype(np.float32))]

    def stacked(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        most = max([1, *map(len, labels)])
        table = np.full((len(labels), most, 5), -1, np.float32)
        table[..., :4] = 0
        for row, own in zip(table, labels, strict=True):
            row[: len(own)] = own
        return table

    def check(self, where: str, images: Any, labels: np.ndarray, classes: int, learned: bool) -> None:
        height, width = images.shape[1:3]
        kinds, there = labels[..., 4], labels[..., 4] != -1
        low, high = labels[..., :2], labels[..., 2:4]
        outside = (low < -0.5) | (high > np.array([width, height]) + 0.5) | ~np.isfinite(low + high)
        faults = {
            f"a class that is none of 0 to {classes - 1}": there
            & ~((kinds >= 0) & (kinds < classes) & (kinds % 1 == 0)),
            f"a box that is outside of its {height}x{width} image": there & outside.any(-1),
            "a box without area": there & (low >= high).any(-1),
        }
        for words, wrong in faults.items():
            if wrong.any():
                record, box = np.argwhere(wrong)[0]
                raise UserError(
                    f"{where}: image {record}, box {box} has {words}: {labels[record, box].tolist()} (left, top, "
                    f"right, bottom, class; {int(wrong.sum()):,} boxes are wrong): mend them, or leave them out"
                )
        if not there.any():
            raise UserError(f"{where}: none of {len(labels):,} images has a box: there is nothing to find")
        seen = np.bincount(kinds[there].astype(np.int64), minlength=classes)
        if missing := np.flatnonzero(seen == 0).tolist():
            warn(f"{where}: no box is of class {', '.join(map(str, missing))} (of {classes} classes)")

    def outputs(self, outputs: Any, images: Sequence[int], classes: int) -> None:
        found = jax.tree.map(lambda leaf: tuple(leaf.shape), dict(outputs) if isinstance(outputs, Mapping) else {})
        (_, *cells, _), (_, many, *_) = found.get("heat", (1,) * 4), found.get("boxes", (1,) * 3)
        points = {"heat": (1, *cells, classes), "size": (1, *cells, 2), "offset": (1, *cells, 2)}
        by_anchor = {"classes": (1, many, 1 + classes), "boxes": (1, many, 4), "anchors": (1, many, 4)}
        if found not in (points, by_anchor):
            raise ValueError(
                f"detection needs a dict of heat [b, h, w, {classes}], size and offset [b, h, w, 2], or of classes "
                f"[b, n, {1 + classes}], boxes and anchors [b, n, 4], got {shapes(outputs)}: name a detector, as "
                "'centernet'"
            )

    def moving(self, batch: Batch) -> Any:
        return jc.augment.Labels(boxes=batch["label"][..., :4])

    def moved(self, labels: Any, batch: Batch) -> jax.Array:
        """Drops objects that have left the image but for a pixel."""
        sides = labels.boxes[..., 2:] - labels.boxes[..., :2]
        kinds = jnp.where((sides >= 1).all(axis=-1), batch["label"][..., 4], -1)
        return jnp.concatenate([labels.boxes, kinds[..., None]], axis=-1)

    def loss(self, outputs: Any, batch: Batch) -> jax.Array:
        """Computes the loss of boxes and classes: of points or of anchors, by the network's outputs."""
        return _kind(outputs).loss(outputs, *_parts(batch), batch["image"].shape[1:3])

    def soft(self, outputs: Any, targets: Any, batch: Batch, temperature: float) -> jax.Array:
        """Divergence from the teacher's classes; distances from its boxes where it sees any."""
        return _kind(outputs).soft(outputs, targets, jnp.sum(_parts(batch)[1] >= 0, axis=-1), temperature)

    def right(self, outputs: Any, batch: Batch) -> jax.Array:
        """The share of the objects' centers, or of their anchors, that tell their class."""
        return _kind(outputs).right(outputs, *_parts(batch), batch["image"].shape[1:3])

    def predict(self, outputs: Any, size: Sequence[int]) -> jax.Array:
        """``[batch, 100, 6]`` float32."""
        found = _kind(outputs).boxes(outputs, size)
        return detections(*found, keep=KEEP, overlap=OVERLAP, candidates=CANDIDATES)

    def score(self, predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Mean average precision as COCO has it: at an overlap of 0.5, and over 0.5 to 0.95."""
        undefined = np.isnan(predicted).any(axis=(1, 2))
        found = mean_precision(np.where(undefined[:, None, None], 0, predicted), labels)
        return {"map50": found.at[0.5], "map": found.mean, "undefined": int(undefined.sum())}

    def pictures(self, images: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[Picture]:
        """Some images with the boxes that were found before and after compression."""
        return [Picture("Boxes", functools.partial(drawing.boxes, images, labels, before, after), "pictures.png")]


DETECTION = Detection()


def _kind(outputs: Any) -> Any:
    return centers if "heat" in outputs else anchors


def _parts(batch: Batch) -> tuple[jax.Array, jax.Array]:
    return batch["label"][..., :4], batch["label"][..., 4].astype(jnp.int32)


def _box(top: float, left: float, bottom: float, right: float) -> str:
    return f"left {left:.4g}, top {top:.4g}, right {right:.4g}, bottom {bottom:.4g} of an image of side 1"


def _squeezed(image: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)
