"""Images on disk: random parts belong to seed, epoch and image, and each host reads its own rows of one batch."""

import io
import math
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.train.common.pictures import encoded, picture
from train.common import data, pictures
from train.common.data import Split
from train.common.errors import UserError
from train.common.feed import Feed
from train.common.stored import CHUNK, Reading, Stored, in_memory

FILES = [encoded(n, 30 + n, 40, "png") for n in range(20)]


def stored(files: list[bytes] = FILES, **reading: Any) -> Stored:
    how = Reading(**{"image_size": 8, "random_crop": 0.2, **reading})
    return Stored(lambda numbers: [files[n] for n in numbers], str, len(files), 3, how, "here")


def test_parts_belong_to_seed_epoch_and_image() -> None:
    one, sound = stored().drawn(np.arange(20), 3, 1)
    other, _ = stored().drawn(np.array([7, 2, 11]), 3, 1)
    np.testing.assert_array_equal(other, one[[7, 2, 11]])
    assert (one.shape, one.dtype, sound.tolist()) == ((20, 8, 8, 3), np.uint8, [1.0] * 20)
    for seed, epoch in ((3, 2), (4, 1)):
        assert (stored().drawn(np.arange(20), seed, epoch)[0] != one).any((1, 2, 3)).all()
    assert stored().shape == (20, 8, 8, 3)  # squares of the middle, as they are scored


def test_a_part_is_what_pillow_cuts_and_resizes() -> None:
    for number, file in enumerate(FILES):
        part = pictures.part(file, 3, 8, 0.2, np.random.default_rng(number))
        box = pictures.drawn_box(30 + number, 40, 0.2, np.random.default_rng(number))
        cut = picture(number, 30 + number, 40).crop(box).resize((8, 8), Image.Resampling.BILINEAR)
        assert np.abs(part.astype(int) - np.asarray(cut).astype(int)).max() <= 1


def test_boxes_have_the_areas_and_aspects_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([pictures.drawn_box(500, 375, 0.08, rng) for _ in range(4000)])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert (boxes >= 0).all()
    assert (boxes[:, 2].max(), boxes[:, 3].max()) == (500, 375)
    share, aspect = width * height / (500 * 375), width / height
    assert (share > 0.079).all()
    assert ((aspect > 0.73) & (aspect < 1.36)).all()
    # Drawn anew where h > 375, that is, with probability 1 - min(1, -ln(share) / ln(16/9)) of an image of 4:3.
    ln, least = math.log(16 / 9), 9 / 16
    chance = least - 0.08 + (1 - (least + least * ln)) / ln
    mean = (least**2 - 0.08**2) / 2 + (0.25 - (least**2 / 4 + least**2 * ln / 2)) / ln
    assert share.mean() == pytest.approx(mean / chance, abs=0.012)
    assert pictures.drawn_box(1000, 10, 0.9, rng) == (493, 0, 506, 10)  # none fits: the middle


def test_a_jpeg_is_decoded_at_the_scale_that_is_needed() -> None:
    file, rng = encoded(1, 1024, 768), np.random.default_rng
    assert pictures.decoded(file, 3, (256, 192)).size == (256, 192)
    assert pictures.decoded(file, 3, (300, 200)).size == (512, 384)
    part = pictures.part(file, 3, 64, 0.5, rng(0)).astype(int)
    box = pictures.drawn_box(1024, 768, 0.5, rng(0))
    whole = Image.open(io.BytesIO(file)).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(part - np.asarray(whole).astype(int)).mean() < 1.5
    assert math.isclose(part.mean(), np.asarray(whole).mean(), abs_tol=1)


def test_pixels_of_sixteen_bits_are_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(file, "png")
    with pytest.raises(UserError, match=r"here: 0 cannot be read .*8 bits a channel are needed"):
        stored([file.getvalue()])[:]


def test_a_torn_image_has_the_shape_of_the_sound_ones() -> None:
    files = [b"torn"] * 2 * CHUNK + [encoded(n, 9, 7, "png") for n in range(3)]
    found = stored(files, image_size=None, random_crop=0.0, corrupt="skip")
    assert found.shape == (len(files), 7, 9, 3)
    assert found[: CHUNK + 1].shape == (CHUNK + 1, 7, 9, 3)
    numbers = np.arange(len(files), dtype=np.int32)
    assert in_memory(found, numbers, limit=len(files) * 7 * 9 * 3 - 1)[0] is found
    images, labels = in_memory(found, numbers, limit=len(files) * 7 * 9 * 3)
    assert (images.shape, labels.tolist()) == ((3, 7, 9, 3), numbers[-3:].tolist())


@pytest.mark.parametrize("crop", [0.0, 0.3])
def test_hosts_read_their_own_rows_of_one_batch(crop: float) -> None:
    split = Split(stored(random_crop=crop), np.arange(20, dtype=np.int32), "known")
    for step in (0, 3):
        how: dict[str, Any] = {"shift": 1, "flip": True}
        whole = data.train_batch(split, step, 6, 5, **how)
        parts = [data.train_batch(split, step, 6, 5, **how, rows=slice(n, n + 2)) for n in range(0, 8, 2)]
        for key in ("image", "label", "index"):
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), whole[key])
        filled = [data.fill(part, 2) for part in parts]  # the last host has nothing but padding
        assert np.concatenate([part["valid"] for part in filled]).tolist() == [1] * 6 + [0] * 2


def test_batches_come_in_order_and_errors_where_they_belong() -> None:
    def make(step: int) -> int:
        if step == 7:
            raise UserError("the seventh")
        return step

    now = np.zeros(())
    with Feed(make, 4, 9) as feed:
        assert [feed.take(now) for _ in range(3)] == [4, 5, 6]
        with pytest.raises(UserError, match="the seventh"):
            feed.take(now)
    assert feed.idle > 0


@pytest.mark.parametrize(("idle", "told"), [(20.0, True), (9.0, False)])
def test_a_phase_that_waits_for_images_says_so(idle: float, told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    own = Feed(lambda step: None, 0, 6)
    own.idle, own._began = idle, time.monotonic() - 100
    own.tell("student")
    words = "student: the input is the bottleneck: devices waited for images for 20 of 100 s"
    assert (words in capsys.readouterr().err) == told
