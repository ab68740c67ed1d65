"""Mean average precision is COCO's own: numbers that pycocotools 2.0.11 gave, and itself where it is installed."""

import contextlib
import io

import numpy as np
import pytest

from tests.train.tasks.cases import case
from train.tasks.precision import THRESHOLDS, mean_precision

REFERENCE = {
    0: (0.21448937424845366, 0.3409774388370011, 0.217419546104408),
    1: (0.2382750376445009, 0.38310590457542, 0.22290623799222029),
    2: (0.25454392685692223, 0.45976495888817687, 0.2082070197970023),
    3: (0.20027746050101444, 0.30744341544237325, 0.2146961081301884),
}
"""AP, AP at 0.5 and at 0.75 of :func:`tests.train.tasks.cases.case`, as pycocotools 2.0.11 gave them."""


def by_pycocotools(answers: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """AP, AP at 0.5 and at 0.75."""
    coco, evaluation = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))

    def row(box: np.ndarray, image: int, number: int) -> dict[str, object]:
        left, top, right, bottom = map(float, box[:4])
        sides = [left, top, right - left, bottom - top]
        own = {"image_id": image, "category_id": int(box[4]), "bbox": sides, "id": number}
        return own | {"area": sides[2] * sides[3], "iscrowd": 0}

    truth = [(i, box) for i, own in enumerate(labels) for box in own if box[4] >= 0]
    found = [(i, box) for i, own in enumerate(answers) for box in own if box[5] > 0]
    kinds = sorted({int(box[4]) for _, box in truth})
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(labels))],
            "categories": [{"id": kind, "name": str(kind)} for kind in kinds],
            "annotations": [row(box, i, number + 1) for number, (i, box) in enumerate(truth)],
        }
        known.createIndex()
        scored = known.loadRes([row(box, i, n) | {"score": float(box[5])} for n, (i, box) in enumerate(found)])
        run = evaluation.COCOeval(known, scored, "bbox")
        run.params.catIds = kinds
        run.evaluate()
        run.accumulate()
        run.summarize()
    return tuple(float(number) for number in run.stats[:3])  # type: ignore[return-value]


def ours(answers: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    found = mean_precision(answers, labels)
    return found.mean, found.at[0.5], found.at[0.75]


@pytest.mark.parametrize("seed", REFERENCE)
def test_fixed_cases_score_what_pycocotools_gave(seed: int) -> None:
    np.testing.assert_allclose(ours(*case(seed)), REFERENCE[seed], atol=1e-9)


@pytest.mark.parametrize("seed", range(20, 30))
def test_any_case_scores_what_pycocotools_gives(seed: int) -> None:
    both = case(seed, classes=1 + seed % 5, images=1 + seed)
    np.testing.assert_allclose(ours(*both), by_pycocotools(*both), atol=1e-9)


def test_perfect_and_no_answers() -> None:
    _, labels = case(0)
    perfect = np.concatenate([labels, (labels[..., 4:] >= 0).astype(np.float32)], axis=-1)
    found = mean_precision(perfect, labels)
    assert found.mean == 1
    assert list(found.at) == [round(t, 2) for t in THRESHOLDS]
    assert found.classes == [1.0, 1.0, 1.0]
    assert mean_precision(np.zeros_like(perfect), labels).mean == 0
    nothing = mean_precision(perfect, np.full_like(labels, -1))
    assert (nothing.mean, nothing.classes) == (0, [])


def test_by_hand() -> None:
    """Two objects; the best answer is wrong, the second and the third are right: precision 1/2 and 2/3."""
    labels = np.array([[[0, 0, 4, 4, 0], [8, 8, 12, 12, 0]]], np.float32)
    rows = [[20, 20, 24, 24, 0, 0.9], [0, 0, 4, 4, 0, 0.8], [8, 8, 12, 12, 0, 0.7]]
    assert mean_precision(np.array([rows], np.float32), labels).at[0.5] == pytest.approx(2 / 3)
