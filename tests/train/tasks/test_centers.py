"""Maps of centers: what they are to be, against loops in float64; what they say, against the boxes that made them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.tasks import centers
from train.tasks.boxes import detections

SIZE, SHAPE, CLASSES = (32, 64), (8, 16), 3
BOXES = np.array([[[4, 4, 12, 20], [40, 10, 61, 25], [0, 0, 0, 0]], [[30, 2, 41, 30], [0, 0, 0, 0], [0, 0, 0, 0]]])
BOXES = BOXES.astype(np.float32)
KINDS = np.array([[0, 2, -1], [1, -1, -1]], np.int32)


def perfect() -> dict[str, np.ndarray]:
    """The map that says these boxes, by a loop."""
    outputs = {
        name: np.zeros((2, *SHAPE, n), np.float32) for name, n in (("heat", CLASSES), ("size", 2), ("offset", 2))
    }
    outputs["heat"] -= 9
    for image, (boxes, kinds) in enumerate(zip(BOXES, KINDS, strict=True)):
        for (left, top, right, bottom), kind in zip(boxes / 4, kinds, strict=True):
            if kind >= 0:
                x, y = (left + right) / 2, (top + bottom) / 2
                at = image, int(y), int(x)
                outputs["heat"][(*at, kind)] = 9
                outputs["size"][at] = math.log(right - left), math.log(bottom - top)
                outputs["offset"][at] = x - int(x), y - int(y)
    return outputs


def test_boxes_come_back() -> None:
    found = detections(*centers.boxes(perfect(), SIZE), keep=5, overlap=0.6, candidates=300)
    for own, boxes, kinds in zip(np.asarray(found), BOXES, KINDS, strict=True):
        seen = own[own[:, 5] > 0.5]
        assert sorted(seen[:, 4].astype(int).tolist()) == sorted(kinds[kinds >= 0].tolist())
        for row in seen:
            np.testing.assert_allclose(row[:4], boxes[kinds == int(row[4])][0], atol=1e-3)


def test_a_perfect_map_loses_little_and_is_right() -> None:
    shapes = jax.jit(lambda outputs: centers.loss(outputs, BOXES, KINDS, SIZE))
    assert float(jnp.max(shapes(perfect()))) < 0.01
    assert centers.right(perfect(), BOXES, KINDS, SIZE).tolist() == [1, 1]
    worse = perfect()
    worse["size"][...] += 0.25
    np.testing.assert_allclose(shapes(worse) - shapes(perfect()), 0.5, rtol=1e-5)
    worse = perfect()
    worse["heat"][1] = -9, -10, -9
    assert centers.right(worse, BOXES, KINDS, SIZE).tolist() == [1, 0]
    assert float(shapes(worse)[1]) > 8


@pytest.mark.exhaustive
def test_no_objects_are_no_trouble() -> None:
    none, kinds = np.zeros((2, 3, 4), np.float32), np.full((2, 3), -1, np.int32)
    loss = lambda outputs: centers.loss(outputs, none, kinds, SIZE).sum()  # noqa: E731
    found, gradient = jax.value_and_grad(loss)(perfect())
    assert np.isfinite(found)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert centers.right(perfect(), none, kinds, SIZE).tolist() == [1, 1]


def test_heat_is_a_gaussian_about_each_center() -> None:
    middle, sizes = centers.cells(jnp.asarray(BOXES), SHAPE, SIZE)
    found = np.asarray(centers.heat(middle, sizes, jnp.asarray(KINDS), SHAPE, CLASSES))
    slow = np.zeros((2, *SHAPE, CLASSES))
    for image, (boxes, kinds) in enumerate(zip(BOXES.astype(np.float64) / 4, KINDS, strict=True)):
        for (left, top, right, bottom), kind in zip(boxes, kinds, strict=True):
            if kind < 0:
                continue
            x, y = int((left + right) / 2), int((top + bottom) / 2)
            reach = math.floor(float(centers.radius(jnp.array([right - left, bottom - top]))))
            spread = (2 * reach + 1) / 6
            for row in range(SHAPE[0]):
                for column in range(SHAPE[1]):
                    value = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * spread**2))
                    slow[image, row, column, kind] = max(slow[image, row, column, kind], value)
    np.testing.assert_allclose(found, slow, atol=1e-5)
    assert (found == 1).sum() == 3


def test_a_center_within_its_radius_leaves_enough_overlap() -> None:
    """Corners that are off by the radius overlap by 0.7 at least, and in the worst case by no more than that."""
    for width, height in ((10.0, 6.0), (3.0, 30.0), (8.0, 8.0)):
        r = float(centers.radius(jnp.array([width, height])))
        area = width * height
        moved = (width - r) * (height - r)
        overlaps = moved / (2 * area - moved), (width - 2 * r) * (height - 2 * r) / area
        overlaps += (area / ((width + 2 * r) * (height + 2 * r)),)
        assert min(overlaps) >= 0.7 - 1e-4
        assert min(abs(each - 0.7) for each in overlaps) < 1e-4


@pytest.mark.exhaustive
def test_a_teacher_that_agrees_teaches_nothing() -> None:
    outputs, objects = perfect(), np.array([2, 1])
    np.testing.assert_allclose(centers.soft(outputs, outputs, objects, 2.0), 0, atol=1e-5)
    other = {**outputs, "size": outputs["size"] + 0.5}
    np.testing.assert_allclose(centers.soft(other, outputs, objects, 1.0), 1.0, rtol=1e-5)
