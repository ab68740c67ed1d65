"""Anchors: what stands for what, against loops in float64; boxes that come back; what counts in the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.tasks.test_boxes import slow_iou
from train.models.ssd import anchors_of
from train.tasks import anchors
from train.tasks.boxes import detections
from train.tasks.detection import DETECTION

SIZE = (32, 48)
PLACES = np.concatenate([anchors_of((8, 12), SIZE, 3), anchors_of((4, 6), SIZE, 3)])
BOXES = np.array([[[2, 3, 20, 18], [30, 8, 36, 30], [0, 0, 0, 0]], [[14, 4, 41, 28], [0, 0, 0, 0], [0, 0, 0, 0]]])
BOXES, KINDS = BOXES.astype(np.float32), np.array([[1, 0, -1], [2, -1, -1]], np.int32)


def perfect() -> dict[str, np.ndarray]:
    """What says these boxes at the anchors that stand for them."""
    places, there = jax.vmap(anchors.matched)(jnp.stack([PLACES] * 2), BOXES, KINDS)
    kinds = np.where(there, 1 + np.take_along_axis(KINDS, np.asarray(places), 1), 0)
    meant = np.take_along_axis(BOXES, np.asarray(places)[..., None], 1)
    return {
        "classes": 20 * np.eye(4, dtype=np.float32)[kinds],
        "boxes": np.asarray(anchors.encoded(meant, PLACES[None])),
        "anchors": np.stack([PLACES] * 2),
    }


def test_anchors_cover_the_image() -> None:
    assert PLACES.shape == (3 * (96 + 24), 4)
    middle = (PLACES[:, :2] + PLACES[:, 2:]) / 2
    np.testing.assert_allclose(middle[[0, 3, 36, -1]], [[2, 2], [6, 2], [2, 6], [44, 28]])
    sides = PLACES[:, 2:] - PLACES[:, :2]
    np.testing.assert_allclose(np.prod(sides, axis=1)[[0, 1, 2]], 16**2)
    np.testing.assert_allclose((sides[:, 0] / sides[:, 1])[:3], [0.5, 1, 2], rtol=1e-5)


def test_each_object_has_its_anchors() -> None:
    for boxes, kinds in zip(BOXES, KINDS, strict=True):
        places, there = anchors.matched(PLACES, boxes, kinds)
        known = [i for i, kind in enumerate(kinds) if kind >= 0]
        overlaps = np.array([[slow_iou(a.astype(float), boxes[i].astype(float)) for i in known] for a in PLACES])
        wanted = overlaps.max(axis=1) >= 0.5
        wanted[overlaps.argmax(axis=0)] = True
        np.testing.assert_array_equal(there, wanted)
        assert set(np.asarray(places)[wanted]) == set(known)


@pytest.mark.exhaustive
def test_boxes_come_back() -> None:
    back = anchors.decoded(anchors.encoded(BOXES[0, 0], PLACES), PLACES)
    np.testing.assert_allclose(back, np.broadcast_to(BOXES[0, 0], back.shape), atol=1e-2)
    found = np.asarray(detections(*anchors.boxes(perfect(), SIZE), keep=6, overlap=0.6, candidates=300))
    for own, boxes, kinds in zip(found, BOXES, KINDS, strict=True):
        seen = own[own[:, 5] > 0.5]
        assert sorted(seen[:, 4].tolist()) == sorted(kinds[kinds >= 0].tolist())
        for row in seen:
            np.testing.assert_allclose(row[:4], boxes[kinds == int(row[4])][0], atol=1e-2)


@pytest.mark.exhaustive
def test_what_is_lost() -> None:
    loss = jax.jit(lambda outputs, kinds: anchors.loss(outputs, BOXES, kinds, SIZE))
    outputs = perfect()
    np.testing.assert_allclose(loss(outputs, KINDS), 0, atol=1e-5)
    assert anchors.right(outputs, BOXES, KINDS, SIZE).tolist() == [1, 1]
    np.testing.assert_allclose(anchors.soft(outputs, outputs, np.ones(2), 2.0), 0, atol=1e-5)
    none = {**outputs, "classes": np.zeros_like(outputs["classes"])}
    there = np.asarray(jax.vmap(anchors.matched)(outputs["anchors"], BOXES, KINDS)[1])
    # of classes that are told by none, an anchor with an object and three others cost log 4 each
    np.testing.assert_allclose(loss(none, KINDS), 4 * np.log(4), rtol=1e-5)
    assert (there.sum(axis=1) * 4 < len(PLACES)).all()
    nothing = np.full_like(KINDS, -1)
    np.testing.assert_allclose(loss(none, nothing), 3 * np.log(4), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(lambda x: loss(x, nothing).sum())(none)))


def test_the_task_knows_both_kinds() -> None:
    one = jax.tree.map(lambda leaf: leaf[:1], perfect())
    DETECTION.outputs(one, (1, *SIZE, 1), 3)
    with pytest.raises(ValueError, match=r"of classes \[b, n, 5\], boxes and anchors \[b, n, 4\], got"):
        DETECTION.outputs(one, (1, *SIZE, 1), 4)
