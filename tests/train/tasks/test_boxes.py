"""Overlaps and non-maximum suppression, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from train.tasks.boxes import detections, iou, nms


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union if union else 0.0


def slow_nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, overlap: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(classes[i] != classes[j] or slow_iou(boxes[i], boxes[j]) <= overlap for j in kept):
            kept.append(int(i))
    return kept


def drawn(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (n, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 20, (n, 2))], axis=1).astype(np.float32)
    return boxes, np.round(rng.uniform(0, 1, n), 2).astype(np.float32), rng.integers(0, 3, n)


def test_overlaps() -> None:
    a, b = drawn(0)[0], drawn(1)[0]
    slow = [[slow_iou(x, y) for y in b.astype(np.float64)] for x in a.astype(np.float64)]
    np.testing.assert_allclose(iou(a, b), slow, atol=1e-6)
    assert iou(jnp.zeros((1, 4)), jnp.zeros((1, 4)))[0, 0] == 0


def test_the_best_are_kept() -> None:
    run = jax.jit(lambda *given: nms(*given, keep=40, overlap=0.5))
    for seed in range(8):
        boxes, scores, classes = drawn(seed)
        places, there = run(boxes, scores, classes)
        assert np.asarray(places)[np.asarray(there)].tolist() == slow_nms(boxes, scores, classes, 0.5)


def test_fewer_are_the_first_and_none_is_none() -> None:
    boxes, scores, classes = drawn(3)
    whole = slow_nms(boxes, scores, classes, 0.5)
    places, there = nms(boxes, scores, classes, keep=5, overlap=0.5)
    assert (places.tolist(), there.tolist()) == (whole[:5], [True] * 5)
    _, there = nms(boxes, jnp.full(40, -jnp.inf), classes, keep=5)
    assert not there.any()


def test_detections_of_a_batch() -> None:
    boxes = np.stack([drawn(seed, 12)[0] for seed in (4, 5)])
    scores = np.random.default_rng(6).uniform(0.1, 1, (2, 12, 3)).astype(np.float32)
    scores[1] = 0
    found = np.asarray(detections(boxes, scores, keep=50, overlap=0.5, candidates=300))
    assert found.shape == (2, 50, 6)
    kinds = np.tile(np.arange(3), 12)
    places = slow_nms(np.repeat(boxes[0], 3, axis=0), scores[0].reshape(-1), kinds, 0.5)
    best = np.column_stack([np.repeat(boxes[0], 3, axis=0), kinds, scores[0].reshape(-1)])[places]
    np.testing.assert_allclose(found[0, : len(places)], best)
    assert not found[0, len(places) :].any()
    assert not found[1].any()
    scores[1, 3, 1] = np.nan
    found = np.asarray(detections(boxes, scores, keep=4, overlap=0.5, candidates=300))
    assert np.isnan(found[1]).all()
    assert not np.isnan(found[0]).any()
