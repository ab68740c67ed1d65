"""Segmentation's figures against scikit-learn's, its tiles against the images they were cut from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from train.tasks.segmentation import NONE, SEGMENTATION, ious, overlap

RNG = np.random.default_rng(0)


def test_intersections_over_unions_are_scikit_learns() -> None:
    labels, found = (RNG.integers(0, 4, (5, 9, 7)).astype(np.uint8) for _ in range(2))
    found[2] = labels[2]
    expected = jaccard_score(labels.reshape(-1), found.reshape(-1), average=None)
    np.testing.assert_allclose(np.array(ious(found.astype(np.int16), labels), float), expected)
    score = SEGMENTATION.score(found.astype(np.int16), labels)
    assert score["mean_iou"] == pytest.approx(expected.mean())


def test_pixels_without_a_class_do_not_count_and_those_without_an_answer_are_wrong() -> None:
    labels = np.array([[[0, 1, NONE, NONE]]], np.uint8)
    assert ious(np.array([[[0, 1, 0, 1]]]), labels) == [1.0, 1.0]
    assert ious(np.array([[[0, -1, 0, 1]]]), labels) == [1.0, 0.0]
    assert ious(np.array([[[0, 3, 0, 1]]]), labels) == [1.0, 0.0, None, 0.0]
    assert SEGMENTATION.score(np.array([[[0, -1, 0, 1]]]), labels)["undefined"] == 1


@pytest.mark.parametrize("size", [3, 4, 7])
def test_tiles_hold_each_pixel_once(size: int) -> None:
    image, mask = RNG.integers(0, 256, (7, 10, 3), np.uint8), RNG.integers(0, 3, (7, 10, 1), np.uint8)
    tiles = SEGMENTATION.examples(image, mask, size)
    assert all(part.shape == (size, size, 3) and own.shape == (size, size) for part, own in tiles)
    columns = -(-10 // size)
    for inside, whole in ((0, image), (1, mask[..., 0])):
        rows = [
            np.concatenate([t[inside] for t in tiles[i : i + columns]], axis=1) for i in range(0, len(tiles), columns)
        ]
        np.testing.assert_array_equal(np.concatenate(rows)[:7, :10], whole)
    labels = np.stack([own for _, own in tiles])
    assert (labels != NONE).sum() == 70


def test_overlap_is_soft_dice_of_the_classes_that_are_there() -> None:
    labels = RNG.integers(0, 2, (3, 4, 5))  # of three classes the last is nowhere
    counts = RNG.random((3, 4, 5)) < 0.8
    p = RNG.dirichlet([1, 1, 1], (3, 4, 5))
    slow = []
    for own, known, there in zip(p, labels, counts, strict=True):
        dice = []
        for kind in range(3):
            truth = (known == kind) & there
            if truth.any():
                dice.append(2 * own[truth, kind].sum() / (own[there, kind].sum() + truth.sum()))
        slow.append(np.mean(dice))
    given = jnp.asarray(p, jnp.float32), jnp.asarray(np.where(counts, labels, NONE)), jnp.asarray(counts)
    np.testing.assert_allclose(overlap(*given), slow, rtol=1e-5)


@pytest.mark.exhaustive
def test_what_counts_is_learned_alone() -> None:
    logits = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    label = RNG.integers(0, 3, (2, 4, 4)).astype(np.uint8)
    label[:, 2:] = NONE
    batch = {"label": jnp.asarray(label)}
    gradient = jax.grad(lambda x: SEGMENTATION.loss(x, batch).sum())(logits)
    assert np.abs(gradient[:, :2]).min() > 0
    assert not gradient[:, 2:].any()
    np.testing.assert_allclose(SEGMENTATION.soft(logits, logits, batch, 2.0), 0, atol=1e-5)
    np.testing.assert_array_equal(
        SEGMENTATION.right(logits, batch), (np.argmax(logits, -1) == label)[:, :2].mean(axis=(1, 2), dtype=np.float32)
    )
