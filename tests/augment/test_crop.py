"""Resized crops against Pillow's, and where they are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcomp import augment
from jaxcomp.augment.crop import TRIES, _window
from jaxcomp.augment.labels import Labels
from jaxcomp.augment.resize import Window, resize

WINDOWS = [(0, 0, 20, 30), (3, 4, 9, 5), (10, 20, 1, 1), (0, 7, 20, 3), (1, 1, 17, 28), (5, 0, 2, 30)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(20, 30), (7, 9), (32, 32), (1, 1), (20, 5)])
def test_windows_are_resized_as_pillow_does(size: tuple[int, int], channels: int) -> None:
    """Images are at most one level off; masks, by nearest, are the same but where the middle is on a pixel's edge."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(WINDOWS), 20, 30, channels), np.uint8)
    window = Window(*jnp.asarray(np.array(WINDOWS, np.int32).T))
    found, labels = jax.jit(lambda x: resize(x, Labels(masks=x[..., 0]), window, size))(images)
    for image, own, mask, (top, left, height, width) in zip(images, found, labels.masks, WINDOWS, strict=True):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        cut = picture.crop((left, top, left + width, top + height))
        expected = np.asarray(cut.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, channels)
        assert np.abs(np.int32(own) - np.int32(expected)).max() <= 1
        nearest = np.asarray(cut.resize(size[::-1], Image.Resampling.NEAREST)).reshape(*size, channels)
        rows, columns = (
            own % n > 0 for own, n in ((middles(size[0], height), 2 * size[0]), (middles(size[1], width), 2 * size[1]))
        )
        np.testing.assert_array_equal(mask[np.ix_(rows, columns)], nearest[..., 0][np.ix_(rows, columns)])


def middles(after: int, before: int) -> np.ndarray:
    """Where pixels' middles come from, in parts of 2 after."""
    return (2 * np.arange(after) + 1) * before


def test_windows_are_as_published() -> None:
    """Shares of the area and ratios are in their ranges, but for rounding, and spread over them."""
    drawn = jnp.asarray(np.random.default_rng(0).random((4 * TRIES, 4096), np.float32))
    window = jax.jit(lambda x: _window(x, 224, 160, (0.08, 1.0), (3 / 4, 4 / 3)))(drawn)
    top, left, height, width = (np.asarray(each) for each in window)
    assert (np.minimum(top, left) >= 0).all()
    assert (top + height <= 224).all()
    assert (left + width <= 160).all()
    share, ratio = height * width / (224 * 160), width / height
    assert 0.075 < share.min() < 0.1
    assert share.max() > 0.9
    assert 0.7 < ratio.min() < 0.78
    assert 1.2 < ratio.max() < 1.36
    assert len(set(top)) > 100
    assert len(set(left)) > 100


@pytest.mark.parametrize(
    ("shape", "expected"), [((40, 8), (14, 0, 11, 8)), ((8, 40), (0, 14, 8, 11)), ((9, 9), (0, 0, 9, 9))]
)
def test_where_nothing_fits_the_middle_is_taken(shape: tuple[int, int], expected: tuple[int, ...]) -> None:
    drawn = jnp.full((4 * TRIES, 1), 0.999, jnp.float32)
    window = _window(drawn, *shape, (1.0, 1.0), (3 / 4, 4 / 3))
    assert tuple(int(each[0]) for each in window) == expected


def test_boxes_are_resized_with_the_image() -> None:
    window = Window(*(jnp.array([n]) for n in (2, 4, 10, 20)))
    boxes = jnp.array([[[4.0, 2.0, 24.0, 12.0], [9.0, 7.0, 14.0, 100.0], [0.0, 0.0, 3.0, 1.0]]])
    found = resize(jnp.zeros((1, 20, 30, 1)), Labels(boxes=boxes), window, (5, 40))[1].boxes
    np.testing.assert_allclose(found[0], [[0, 0, 40, 5], [10, 2.5, 20, 5], [0, 0, 0, 0]])


def test_the_size_may_be_another() -> None:
    images = np.zeros((2, 9, 7, 3), np.uint8)
    found, labels = augment.random_resized_crop((4, 5))(jax.random.key(0), images, Labels(masks=images[..., 0]))
    assert found.shape == (2, 4, 5, 3)
    assert labels.masks.shape == (2, 4, 5)
