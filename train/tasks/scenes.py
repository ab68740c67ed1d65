"""Scenes: several of scikit-learn's digits on a noisy canvas, with a box and the ink of each. No download."""

import functools
from typing import NamedTuple

import numpy as np

SIDE = 48
"""Pixels of a canvas."""
COUNTS = {"train": 800, "test": 300}
SIDES, MOST, TRIES = (11, 20), 4, 20
"""Sides of a digit in pixels, how many a scene has at most, and how often a place is looked for."""


class Scenes(NamedTuple):
    """A split.

    Attributes:
      images: ``[n, 48, 48, 1]`` uint8.
      boxes: of each ``[digits, 5]`` float32: left, top, right, bottom, and the digit.
      masks: ``[n, 48, 48]`` uint8: 0, or 1 + the digit whose ink is there.
    """

    images: np.ndarray
    boxes: list[np.ndarray]
    masks: np.ndarray


@functools.cache
def compose(split: str) -> Scenes:
    """The scenes of ``"train"`` or ``"test"``, always the same ones; no digit is in both.

    A digit's box goes around its ink, which is what is at least half as dark as its darkest pixel. Boxes do not touch.
    """
    from train.tasks.classification import CLASSIFICATION

    digits, labels, _ = CLASSIFICATION.embedded(split)
    rng = np.random.default_rng([11, split == "test"])
    found = [_scene(digits[..., 0], labels, rng) for _ in range(COUNTS[split])]
    images, boxes, masks = zip(*found, strict=True)
    return Scenes(np.stack(images)[..., None], list(boxes), np.stack(masks))


def _scene(
    digits: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    canvas = np.clip(rng.normal(rng.uniform(10, 60), rng.uniform(4, 14), (SIDE, SIDE)), 0, 255)
    mask, boxes = np.zeros((SIDE, SIDE), np.uint8), list[np.ndarray]()
    for _ in range(rng.integers(1, MOST + 1)):
        chosen = rng.integers(len(digits))
        digit = _resized(digits[chosen], int(rng.integers(*SIDES)))
        ink = digit >= digit.max() / 2
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        ends = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        for _ in range(TRIES):
            x, y = rng.integers(0, SIDE - len(digit) + 1, 2)
            box = ends + np.array([x, y, x, y])
            if all(_apart(box, other) for other in boxes):
                break
        else:
            continue
        at = np.s_[y : y + len(digit), x : x + len(digit)]
        canvas[at] = np.maximum(canvas[at], digit * rng.uniform(0.6, 1.0))
        mask[at] = np.where(ink, 1 + labels[chosen], mask[at])
        boxes.append(np.array([*box, labels[chosen]], np.float32))
    return np.round(canvas).astype(np.uint8), np.stack(boxes), mask


def _apart(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1])


def _resized(digit: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), np.float64)
