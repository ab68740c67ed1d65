"""Laws of all tasks, and data that cannot be learned from: refused with the record and what to do."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.common import command_line, data, views
from train.common.errors import UserError
from train.tasks import TASKS, named, scenes
from train.tasks.detection import DETECTION
from train.tasks.segmentation import NONE, SEGMENTATION

TASK = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


def test_the_command_line_knows_them_all() -> None:
    assert tuple(TASKS) == command_line.TASKS
    with pytest.raises(UserError, match="unknown task 'pose'; the tasks are: classification, segmentation, detection"):
        named("pose")


@TASK
def test_embedded_sets_are_sound_and_always_the_same(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = data.load("digits", task=task).read_all()
    assert capsys.readouterr() == ("", "")  # nothing to warn of
    assert dataset.digest == data.load("digits", task=task).digest
    assert len(dataset.train.images) == len(dataset.train.labels)
    assert not {x.tobytes() for x in dataset.train.images} & {x.tobytes() for x in dataset.test.images[:50]}


def test_scenes_are_those_of_every_earlier_run() -> None:
    found = scenes.compose("test")
    total = hashlib.sha256(found.masks.tobytes() + np.concatenate(found.boxes).tobytes()).hexdigest()
    assert (found.images.shape, total[:16]) == ((300, 48, 48, 1), "ce63f7be8b23beed")


def test_boxes_of_scenes_go_around_the_ink() -> None:
    found = scenes.compose("test")
    for boxes, mask in zip(found.boxes[:40], found.masks, strict=False):
        around = np.zeros_like(mask)
        for left, top, right, bottom, digit in boxes.astype(int):
            inside = mask[top:bottom, left:right]
            assert set(np.unique(inside)) <= {0, 1 + digit}
            ink = inside > 0
            assert all((ink.any(axis=1)[i], ink.any(axis=0)[i]) == (True, True) for i in (0, -1))
            around[top:bottom, left:right] = 1
        assert not mask[around == 0].any()


@TASK
def test_a_batch_is_learned_and_answered(task: Any) -> None:
    """Losses are finite and one an example; what a teacher that agrees teaches is nothing; answers are scored."""
    split = data.load("digits", task=task).test
    batch = data.pad(data.train_batch(split, 0, 4, 0, shift=0, flip=False), 3)
    n, (height, width) = len(batch["image"]), batch["image"].shape[1:3]
    rng = np.random.default_rng(0)
    shapes: Any = {"classification": (n, 10), "segmentation": (n, height, width, 11)}.get(task.name)
    if shapes is None:
        shapes = {name: (n, height // 4, width // 4, c) for name, c in (("heat", 10), ("size", 2), ("offset", 2))}
    outputs = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes, is_leaf=lambda x: type(x) is tuple
    )
    task.outputs(
        jax.tree.map(lambda x: x[:1], outputs), (1, height, width, 1), 11 if task.name == "segmentation" else 10
    )
    with pytest.raises(ValueError, match=f"{task.name} needs .* got "):
        task.outputs(jax.tree.map(lambda x: x[:1, ..., :1], outputs), (1, height, width, 1), 10)
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: (task.loss(x, batch) * batch["valid"]).sum()))(outputs)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() and leaf[:4].any() for leaf in jax.tree.leaves(gradient))
    assert not any(leaf[4:].any() for leaf in jax.tree.leaves(gradient))  # padding
    np.testing.assert_allclose(task.soft(outputs, outputs, batch, 2.0), 0, atol=1e-5)
    right = task.right(outputs, batch)
    assert right.shape == (n,)
    assert (right >= 0).all()
    assert (right <= 1).all()
    answers = np.asarray(jax.jit(lambda x: task.predict(x, (height, width)))(outputs))[:4]
    labels = split.labels[batch["index"][:4]]
    found = task.score(answers, labels)
    assert 0 <= found[task.metric] <= 1
    assert found["undefined"] == 0
    broken = jax.tree.map(lambda x: x.at[1].set(jnp.nan), outputs)
    assert task.score(np.asarray(task.predict(broken, (height, width)))[:4], labels)["undefined"] == 1
    for picture in task.pictures(split.images[:4], labels, answers, answers):
        assert picture.draw(width=3.7).get_figwidth() == pytest.approx(3.7, abs=0.4)


def test_boxes_and_masks_move_with_the_image() -> None:
    """After the same views, the boxes are still those around the ink of the masks."""
    text = views.moves("cutout(1)", 6, True)
    assert text == "pad_crop(6), flip(), cutout(1)"
    moved = {}
    for task in (SEGMENTATION, DETECTION):
        dataset = data.load("digits", task=task)
        view = views.read(text, dataset)
        assert view is not None
        batch = data.pad(data.train_batch(dataset.test, 0, 24, 0, shift=0, flip=False), 1)
        moved[task.name] = jax.jit(views.in_step(view, 3, 1, task))(jnp.int32(0), batch)
    masks, boxes = (np.asarray(moved[name]["label"]) for name in ("segmentation", "detection"))
    np.testing.assert_array_equal(moved["segmentation"]["image"], moved["detection"]["image"])
    assert (masks == NONE).any()  # what came in from outside
    compared = 0
    for mask, own in zip(masks, boxes, strict=True):
        for left, top, right, bottom, kind in own[own[:, 4] >= 0].astype(int):
            inside = mask[top:bottom, left:right]
            assert set(np.unique(inside)) <= {0, 1 + kind}
            if min(left, top) > 0 and max(right, bottom) < 48:
                assert all((inside > 0).any(axis=axis)[i] for axis in (0, 1) for i in (0, -1))
                compared += 1
    assert compared > 20


def test_an_object_that_left_is_none() -> None:
    batch: dict[str, Any] = {"label": jnp.array([[[0, 0, 4, 4, 2], [5, 5, 9, 9, 1], [0, 0, 0, 0, -1]]], jnp.float32)}
    gone = DETECTION.moving(batch)._replace(boxes=jnp.array([[[0, 0, 0, 4], [3, 3, 7, 7], [0, 0, 0, 0]]], jnp.float32))
    assert DETECTION.moved(gone, batch)[0, :, 4].tolist() == [-1, 1, -1]


def boxes_of(*rows: tuple[float, ...]) -> np.ndarray:
    return DETECTION.stacked([np.array(rows, np.float32), np.array([[1, 1, 3, 3, 0]], np.float32)])


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
MASK = np.zeros((2, 8, 8), np.uint8)
BAD: list[tuple[Any, np.ndarray, str]] = [
    (
        DETECTION,
        boxes_of((2, 2, 9, 4, 0)),
        r"image 0, box 0 has a box that is outside of its 8x8 image: \[2.0, 2.0, 9.0",
    ),
    (DETECTION, boxes_of((1, 1, 2, 2, 0), (-3, 2, 4, 4, 0)), "image 0, box 1 has a box that is outside"),
    (DETECTION, boxes_of((2, 2, float("nan"), 4, 0)), "image 0, box 0 has a box that is outside"),
    (DETECTION, boxes_of((2, 2, 2, 4, 0)), "image 0, box 0 has a box without area"),
    (DETECTION, boxes_of((2, 2, 4, 4, 3)), "image 0, box 0 has a class that is none of 0 to 2"),
    (DETECTION, boxes_of((2, 2, 4, 4, -2)), "image 0, box 0 has a class that is none of 0 to 2"),
    (DETECTION, boxes_of((2, 2, 4, 4, 0.5)), "image 0, box 0 has a class that is none of 0 to 2"),
    (DETECTION, np.full((2, 1, 5), -1, np.float32), "none of 2 images has a box"),
    (SEGMENTATION, MASK + np.uint8(7), "image 0 has a pixel of class 7, and classes go from 0 to 2, 255 for none"),
    (SEGMENTATION, MASK, "all pixels are of class 0: there is nothing to tell apart"),
    (SEGMENTATION, MASK[:, :4], r"labels of shape \(2, 4, 8\) for images of shape \(2, 8, 8, 1\)"),
]


@pytest.mark.parametrize(("task", "labels", "words"), BAD, ids=range(len(BAD)))
def test_labels_that_cannot_be_are_refused(task: Any, labels: np.ndarray, words: str) -> None:
    dataset = data.Dataset("mine", 3, lambda split: data.Split(IMAGES, labels), task)
    with pytest.raises(UserError, match=f"dataset 'mine', split 'train'.*{words}"):
        dataset.read_all()


def test_images_without_objects_are_some() -> None:
    labels = DETECTION.stacked([np.zeros((0, 5), np.float32), np.array([[1, 1, 3, 3, 0]], np.float32)])
    dataset = data.Dataset("mine", 1, lambda split: data.Split(IMAGES, labels), DETECTION)
    assert (dataset.read_all().train.labels[..., 4] >= 0).sum() == 1
