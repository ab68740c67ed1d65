"""The fourteen operations against Pillow, one by one, on fixed images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxcomp.augment import OPERATIONS, Labels, color
from jaxcomp.augment.operations import BLENDS, operate, settings
from jaxcomp.augment.policies import BINS, _rand_ranges, _wide_ranges

HEIGHT, WIDTH = 13, 18


@functools.cache
def pictures(channels: int) -> np.ndarray:
    """Noise, a gradient, one color, two levels, few levels, and noise of little contrast."""
    rng = np.random.default_rng(0)
    shape = (HEIGHT, WIDTH, channels)
    slope = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) * np.linspace(1, 0.5, channels)
    return np.stack(
        [
            rng.integers(0, 256, shape),
            slope,
            np.full(shape, 77),
            rng.choice([0, 255], shape),
            rng.choice([3, 90, 91, 200], shape),
            rng.integers(100, 140, shape),
        ]
    ).astype(np.uint8)


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def by_pillow(name: str, magnitude: float, image: np.ndarray) -> np.ndarray:
    """What Pillow makes of an image; the spelling is that of RandAugment's and TrivialAugment's authors."""
    own = picture(image)

    def affine(*matrix: float) -> Image.Image:
        return own.transform(own.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)

    made = {
        "identity": lambda: own,
        "shear_x": lambda: affine(1, magnitude, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, magnitude, 1, 0),
        "translate_x": lambda: affine(1, 0, -magnitude, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -magnitude),
        "rotate": lambda: own.rotate(magnitude, Image.Resampling.NEAREST),
        "brightness": lambda: ImageEnhance.Brightness(own).enhance(finest(1 + magnitude)),
        "color": lambda: ImageEnhance.Color(own).enhance(finest(1 + magnitude)),
        "contrast": lambda: ImageEnhance.Contrast(own).enhance(finest(1 + magnitude)),
        "sharpness": lambda: ImageEnhance.Sharpness(own).enhance(finest(1 + magnitude)),
        "posterize": lambda: ImageOps.posterize(own, int(magnitude)),
        "solarize": lambda: ImageOps.solarize(own, magnitude),
        "autocontrast": lambda: ImageOps.autocontrast(own),
        "equalize": lambda: ImageOps.equalize(own),
    }[name]()
    return np.asarray(made).reshape(image.shape)


def finest(factor: float) -> float:
    """The factor that ours rounds to: Pillow's float32 is exact with it."""
    return round(factor * color.FINEST) / color.FINEST


def magnitudes(name: str) -> list[float]:
    ranges = [own(name, step, HEIGHT, WIDTH) for own in (_rand_ranges, _wide_ranges) for step in range(BINS)]
    signed = [*ranges, *(-value for value in ranges)] if name not in ("posterize", "solarize") else ranges
    more = [0, 90, 180, -90, 270, 45.5] if name == "rotate" else []
    return sorted({float(value) for value in [*signed, *more]})


@jax.jit
def run(chosen, images):
    return operate(chosen, images, Labels())[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_uint8_images_are_pillows(name: str, channels: int) -> None:
    images = pictures(channels)
    for magnitude in magnitudes(name):
        chosen = settings([(name, magnitude)] * len(images), HEIGHT, WIDTH)
        found = np.asarray(run(chosen, images)).astype(int)
        expected = np.stack([by_pillow(name, magnitude, image) for image in images]).astype(int)
        if name == "autocontrast":  # Pillow cuts off floating-point numbers that should be whole
            assert set(np.unique(found - expected)) <= {0, 1}
            assert (found != expected).mean() < 0.02
        else:
            np.testing.assert_array_equal(found, expected, f"{name} {magnitude}")


@pytest.mark.parametrize("name", OPERATIONS)
def test_floating_point_images_are_within_levels_of_it(name: str) -> None:
    """Pillow rounds the other image of a blend, then its result; a factor nearly doubles the first."""
    images = pictures(3) / np.float32(255)
    for magnitude in magnitudes(name)[::10]:
        chosen = settings([(name, magnitude)] * len(images), HEIGHT, WIDTH)
        found = np.asarray(run(chosen, images))
        expected = np.stack([by_pillow(name, magnitude, image) for image in pictures(3)]) / 255
        levels = 2 if name in BLENDS else name == "autocontrast"
        assert np.abs(found - expected).max() <= (levels + 1e-4) / 255, magnitude


@pytest.mark.parametrize("name", OPERATIONS)
def test_bfloat16_is_float32_rounded(name: str) -> None:
    images = jnp.asarray(pictures(3) / np.float32(255), jnp.bfloat16)
    chosen = settings([(name, 4.0 if name == "posterize" else -0.7)] * len(images), HEIGHT, WIDTH)
    found, expected = run(chosen, images), run(chosen, jnp.float32(images))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(found), expected, atol=2**-7 if name in BLENDS else 2**-9)


def test_each_image_gets_its_own_operation() -> None:
    named = [
        ("equalize", 0.0),
        ("rotate", 30.0),
        ("color", -0.5),
        ("solarize", 100.0),
        ("sharpness", 0.9),
        ("identity", 0.0),
    ]
    images = pictures(3)
    found = run(settings(named, HEIGHT, WIDTH), images)
    expected = np.stack([by_pillow(*each, image) for each, image in zip(named, images, strict=True)])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS[:10])
def test_nothing_happens_at_magnitude_zero(name: str, channels: int) -> None:
    for images in (pictures(channels), np.float32(pictures(channels)) / 255):
        found = run(settings([(name, 0.0)] * len(images), HEIGHT, WIDTH), images)
        np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 7), (1, 9)])
def test_images_of_a_few_pixels(size: tuple[int, int]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (len(OPERATIONS), *size, 3), np.uint8)
    named = [(name, 4.0 if name == "posterize" else 0.5) for name in OPERATIONS]
    found = run(settings(named, *size), images)
    for (name, magnitude), image, own in zip(named, images, found, strict=True):
        np.testing.assert_allclose(
            np.int32(own), by_pillow(name, magnitude, image), atol=int(name == "autocontrast"), err_msg=name
        )
