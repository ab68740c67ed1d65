"""Mean average precision as COCO has it, in NumPy: matches by score, precision over recall at 101 places."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
RECALLS = np.linspace(0, 1, 101)


class Precision(NamedTuple):
    """Average precision, over the classes that are there.

    Attributes:
      at: by the intersection over union that a match needs.
      mean: over all of these: COCO's AP.
      classes: COCO's AP of each class; None of one that is nowhere.
    """

    at: dict[float, float]
    mean: float
    classes: list[float | None]


def mean_precision(
    predicted: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] = THRESHOLDS, most: int = 100
) -> Precision:
    """Scores the boxes of images.

    Args:
      predicted: ``[n, k, 6]``: left, top, right, bottom, class, score; a score of 0 is no box.
      labels: ``[n, m, 5]``: left, top, right, bottom, class; a class below 0 is no object.
      thresholds: the intersections over union that a match needs.
      most: boxes of an image and class that count, the best.

    Returns:
      Zeros where nothing is labeled.

    Reference: Lin et al., Microsoft COCO, 2014; its evaluation (pycocotools), of all sizes, no crowds.
    """
    classes = 1 + int(max(labels[..., 4].max(initial=-1), -1))
    table = np.zeros((len(thresholds), 0))
    each: list[float | None] = []
    for kind in range(classes):
        own = _of_class(predicted, labels, kind, np.asarray(thresholds), most)
        each.append(None if own is None else float(own.mean()))
        if own is not None:
            table = np.column_stack([table, own])
    means = table.mean(axis=1) if table.size else np.zeros(len(thresholds))
    return Precision({round(t, 2): float(m) for t, m in zip(thresholds, means, strict=True)}, float(means.mean()), each)


def _of_class(
    predicted: np.ndarray, labels: np.ndarray, kind: int, thresholds: np.ndarray, most: int
) -> np.ndarray | None:
    """Average precision at each threshold; None for a class without objects."""
    scores, hits, objects = [], [], 0
    for found, known in zip(predicted, labels, strict=True):
        truth = known[known[:, 4] == kind, :4].astype(np.float64)
        own = found[(found[:, 4] == kind) & (found[:, 5] > 0)].astype(np.float64)
        own = own[np.argsort(-own[:, 5], kind="stable")][:most]
        objects += len(truth)
        scores.append(own[:, 5])
        hits.append(_matches(own[:, :4], truth, thresholds))
    if not objects:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.concatenate(hits, axis=1)[:, order]
    return np.array([_average(row, objects) for row in hit])


def _matches(found: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which boxes, the best first, match an object that none before has matched: ``[thresholds, boxes]``."""
    overlaps = _iou(found, truth)
    hit = np.zeros((len(thresholds), len(found)), bool)
    for row, threshold in zip(hit, thresholds, strict=True):
        free = np.ones(len(truth), bool)
        for box in range(len(found)):
            best = np.where(free, overlaps[box], -1)
            # COCO's own order: of objects that overlap alike the last is matched
            place = len(best) - 1 - int(np.argmax(best[::-1])) if len(best) else -1
            if place >= 0 and best[place] >= min(threshold, 1 - 1e-10):
                row[box], free[place] = True, False
    return hit


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12)


def _average(hit: np.ndarray, objects: int) -> float:
    """Mean of the precision at 101 recalls, each the best at that recall or a greater one."""
    right = np.cumsum(hit)
    recall, precision = right / objects, right / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.concatenate([precision, [0.0]])[np.minimum(places, len(precision))].mean())
