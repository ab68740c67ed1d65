"""Classification: one class an image. Labels are ``[n]`` int32, outputs logits ``[batch, classes]``."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp import measure
from train.common.checks import check_labels, check_variety
from train.tasks.task import Batch, Columns, Picture

SHOWN_CLASSES = 20
"""Up to so many classes the report shows which were taken for which."""


class Classification:
    """As :class:`train.tasks.task.Task` has it."""

    name, metric, title, whole = "classification", "accuracy", "accuracy", True
    needs = "images with class labels"

    def embedded(self, split: str) -> tuple[np.ndarray, np.ndarray, int]:
        """1,797 real handwritten digits of 8x8; a third of them, 599, is for testing."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = bunch.target.astype(np.int32)
        order = np.random.default_rng(0).permutation(len(labels))
        chosen = order[: len(order) // 3] if split == "test" else order[len(order) // 3 :]
        return images[chosen], labels[chosen], 10

    def columns(self, features: Mapping[str, Any], keys: Sequence[str]) -> Columns | None:
        image, label = keys or ("image", "label")
        if image not in features or not hasattr(features.get(label), "num_classes"):
            return None
        return Columns(image, label, features[label].num_classes)

    def examples(self, image: np.ndarray, label: Any, size: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """The largest square in the middle, resized."""
        return [(squared(image, size), np.asarray(label, np.int32))]

    def stacked(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(labels, np.int32)

    def check(self, where: str, images: Any, labels: np.ndarray, classes: int, learned: bool) -> None:
        del images
        check_labels(where, labels, classes)
        check_variety(where, labels, classes, learned)

    def outputs(self, outputs: Any, images: Sequence[int], classes: int) -> None:
        if getattr(outputs, "shape", None) != (1, classes):
            raise ValueError(f"classification needs logits [batch, {classes}], got {shapes(outputs)}")

    def moving(self, batch: Batch) -> Any:
        return jnp.where(batch["valid"] > 0, batch["label"], -1)  # padding adds no class to its neighbor

    def moved(self, labels: Any, batch: Batch) -> jax.Array:
        del batch
        return labels

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Cross-entropy."""
        return jc.distill.cross_entropy(outputs, batch["label"])

    def soft(self, outputs: jax.Array, targets: jax.Array, batch: Batch, temperature: float) -> jax.Array:
        """Divergence from the teacher's softened classes."""
        del batch
        return jc.distill.kl(outputs, targets, temperature=temperature)

    def right(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Whether the largest logit is the label's; of a mixture, of what it is most of."""
        labels = batch["label"]
        answers = jnp.argmax(labels, -1) if labels.ndim > 1 else labels
        return jnp.argmax(outputs, -1) == answers

    def predict(self, outputs: jax.Array, size: Sequence[int]) -> jax.Array:
        """Classes ``[batch]`` int32; -1 where a logit is NaN: the largest number is not known."""
        del size
        best = jnp.argmax(outputs, axis=-1).astype(jnp.int32)
        return jnp.where(jnp.isnan(outputs).any(axis=-1), jnp.int32(-1), best)

    def score(self, predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Accuracy; images without an answer count as wrong."""
        correct = int((predicted == labels).sum())
        return {"accuracy": correct / len(labels), "correct": correct, "undefined": int((predicted < 0).sum())}

    def pictures(self, images: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[Picture]:
        """Which class was taken for which."""
        del images, before
        seen = int(max(np.max(labels), after.max())) + 1
        confusion = functools.partial(measure.class_confusion, np.asarray(labels), after, seen)
        return [Picture("Classes", confusion)] if seen <= SHOWN_CLASSES else []


CLASSIFICATION = Classification()


def squared(image: np.ndarray, size: int | None) -> np.ndarray:
    """The largest square in the middle of an image ``[h, w, c]``, resized to a side; None: the image as it is."""
    if size is None or image.shape[:2] == (size, size):
        return image
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    resized = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, -1)


def shapes(outputs: Any) -> str:
    """Shapes of what a network gives, in words."""
    return str(jax.tree.map(lambda leaf: tuple(leaf.shape), outputs))
