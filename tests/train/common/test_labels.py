"""A teacher's answers: each belongs to the view that is shown, whatever was killed, and others are told from them."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from train import models
from train.common import data, labels, lock, views
from train.common.errors import UserError
from train.common.labels import FILE, Labels, header, kept, teacher_digest
from train.common.step import Functions, network

DATASET = data.load("digits")


def first(count: int, skipped: int = 0) -> data.Dataset:
    """Digits, but for those after some, and before."""
    own = slice(skipped, skipped + count)
    return dataclasses.replace(
        DATASET, read=lambda split: data.Split(DATASET.train.images[own], DATASET.train.labels[own])
    )


SOME = first(70)
MODEL = network(models.create("lenet300", 10), (0.3,), (0.4,))
VARIABLES = jax.device_get(MODEL.init(jax.random.key(0), DATASET.train.images[:1]))
VIEW = views.read("pad_crop(2), rand_augment(1, 9, operations=['rotate', 'solarize'])", SOME)


def about(**changed: Any) -> labels.Header:
    given = {"seed": 3, "views": 2, "k": 5} | changed
    return header(SOME, teacher_digest(VARIABLES, ["lenet300"]), VIEW, **given)


def made(folder: Path, **changed: Any) -> Labels:
    return kept(folder, MODEL, VARIABLES, SOME, VIEW, about(**changed))


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of three parts a view, of batches that do not divide them."""
    monkeypatch.setattr(labels, "PART", 30)
    monkeypatch.setattr(labels, "BATCH", 16)


def test_several_hosts_are_told_before_a_teacher_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="made by one process: use one host"):
        about()


@pytest.mark.usefixtures("in_parts")
def test_an_answer_belongs_to_the_view_that_a_step_shows(tmp_path: Path) -> None:
    found = made(tmp_path)
    per_epoch, numbers = 2, np.array([64, 3, 17, 69, 0], np.int32)
    assert VIEW is not None
    seen = views.in_step(VIEW, found.about["seed"], per_epoch, count=found.about["views"])
    for step in (0, 3, 5):  # epochs 0 and 1, and 2, which is shown the first view again
        batch = {"image": SOME.train.images[numbers], "label": SOME.train.labels[numbers], "index": numbers}
        shown = seen(jnp.int32(step), {**batch, "valid": np.ones(5, np.float32)})
        live = MODEL.infer(VARIABLES, shown["image"])
        soft = found.beside(per_epoch)(step, batch)["soft"]
        # A number may round to the next level in a batch of another size.
        assert np.count_nonzero(soft != jc.distill.store_labels(live / 4)) <= 1
    assert (found.of(0, numbers) != found.of(1, numbers)).any()
    np.testing.assert_array_equal(found.of(0, numbers), found.of(2, numbers))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]


@pytest.mark.usefixtures("in_parts")
def test_a_kill_at_any_write_loses_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about_ = header(SOME, teacher_digest(VARIABLES, []), None, seed=0, views=2, k=5)

    def made(folder: Path) -> Labels:
        return kept(folder, MODEL, VARIABLES, SOME, None, about_)

    whole = made(tmp_path / "whole")
    write, asked = labels._write, list[str]()

    class Killed(BaseException):
        pass

    def killing(path: Path, records: Any) -> None:
        path.with_name(f".{path.name}.tmp").write_bytes(b"torn")
        asked.append(path.name)
        raise Killed

    def once(path: Path, records: Any) -> None:
        write(path, records)
        monkeypatch.setattr(labels, "_write", killing)

    for _ in range(7):  # six parts, and all of them together
        monkeypatch.setattr(labels, "_write", once)
        try:
            made(tmp_path / "killed")
        except Killed:
            lock.release(tmp_path / "killed")
    assert asked == [*(f"part-{n:05}.array_record" for n in range(1, 6)), FILE]
    found = made(tmp_path / "killed")
    for view in (0, 1):
        np.testing.assert_array_equal(found.of(view, np.arange(70)), whole.of(view, np.arange(70)))
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [FILE]


def test_answers_take_five_bytes_each(tmp_path: Path) -> None:
    """A file of as many images as CIFAR-10 has: beside the answers there is little."""
    n, rng = 50_000, np.random.default_rng(0)
    images = np.zeros((n, 1, 1, 1), np.uint8)
    many = dataclasses.replace(DATASET, read=lambda split: data.Split(images, rng.integers(0, 10, n)))
    answers = jnp.asarray(rng.normal(size=(512, 10)) * 3, jnp.float32)
    teacher = Functions(lambda variables, images: answers[: images.shape[0]])
    whose = header(many, teacher_digest({}, []), None, seed=0, views=3, k=5)
    file = kept(tmp_path, teacher, {}, many, None, whose).path
    assert file.stat().st_size / (3 * n) < 6


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 4}, "seed: 3 there, 4 now"),
        ({"k": 4}, "k: 5 there, 4 now"),
        ({"views": 3}, "views: 2 there, 3 now"),
    ],
)
def test_answers_to_something_else_are_refused(tmp_path: Path, changed: dict[str, int], words: str) -> None:
    made(tmp_path)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        made(tmp_path, **changed)
    assert "name another folder" in str(caught.value)


def test_another_teacher_data_set_and_augmentation_are_told(tmp_path: Path) -> None:
    made(tmp_path)
    other = jax.tree.map(lambda leaf: leaf * 1.01, VARIABLES)
    for whose, name in (
        (header(SOME, teacher_digest(other, ["lenet300"]), VIEW, seed=3, views=2, k=5), "teacher"),
        (header(SOME, teacher_digest(VARIABLES, ["cnn"]), VIEW, seed=3, views=2, k=5), "teacher"),
        (header(first(70, 1), teacher_digest(VARIABLES, ["lenet300"]), VIEW, seed=3, views=2, k=5), "data set"),
        (header(SOME, teacher_digest(VARIABLES, ["lenet300"]), None, seed=3, views=2, k=5), "augmentation"),
    ):
        with pytest.raises(UserError, match=f"{name}: .* there, .* now"):
            Labels(tmp_path / FILE, whose)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("name", [FILE, "part-00001.array_record"])
def test_what_is_cut_off_or_altered_is_told(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != FILE:
        monkeypatch.setattr(labels, "_joined", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path)
        lock.release(tmp_path)
        monkeypatch.undo()
        monkeypatch.setattr(labels, "PART", 30)
    else:
        made(tmp_path)
    path = tmp_path / name
    sound = path.read_bytes()
    start = 140  # in the first record
    altered = sound[:start] + bytes([sound[start] ^ 1]) + sound[start + 1 :]
    for spoilt in (sound[: len(sound) // 2], b"", b"text", altered):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=re.escape(f"{path} is damaged")):
            made(tmp_path)
        lock.release(tmp_path)
    path.write_bytes(sound)
    made(tmp_path)


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    mixing = views.read("flip(), mixup(0.2)", SOME)
    with pytest.raises(UserError, match="mixes images with their neighbors"):
        header(SOME, "", mixing, seed=0, views=1, k=5)
    for wrong in ({"views": 0}, {"k": 1}, {"k": 11}):
        with pytest.raises(UserError, match="k from 2 to the 10 classes, got"):
            about(**wrong)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, VARIABLES)
    with pytest.raises(UserError, match="images 0 to 69 with what is no number"):
        kept(tmp_path, MODEL, broken, SOME, VIEW, about())


def test_a_teacher_is_known_by_all_that_makes_its_answers() -> None:
    one = teacher_digest(VARIABLES, ["lenet300", {"a": 1}])
    assert len(one) == len(hashlib.sha256().hexdigest())
    assert one == teacher_digest(jax.tree.map(jnp.asarray, VARIABLES), ["lenet300", {"a": 1}])
    assert one != teacher_digest(VARIABLES, ["lenet300", {"a": 2}])


def test_a_teacher_that_is_sure_still_tells_classes_apart() -> None:
    """At a temperature of 4, what is a millionth at 1 is a thirtieth."""
    sure = jnp.array([[20.0, 6.0, 3.0, 0.0, -2.0, -3.0]])
    kept_ = labels.logits(jc.distill.store_labels(sure / labels.TEMPERATURE), 6, 5)
    np.testing.assert_allclose(jax.nn.softmax(kept_ / 4), jax.nn.softmax(sure / 4), atol=0.02)
