"""Color jitter against Pillow's enhancements and the standard library's HSV."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from jaxcomp import augment
from jaxcomp.augment.color_jitter import turned

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 7, 9, 3), np.uint8)
KINDS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}


@pytest.mark.parametrize("name", KINDS)
def test_factors_are_in_their_range_and_pillows(name: str) -> None:
    """Of a few thousand factors in the range one gives the image that was found."""
    found = np.asarray(augment.color_jitter(**{name: 0.6})(jax.random.key(1), IMAGES)[0])
    factors = np.arange(round(0.4 * 4096), round(1.6 * 4096) + 1) / 4096
    chosen = []
    for image, own in zip(IMAGES, found, strict=True):
        enhancer = KINDS[name](Image.fromarray(image))
        ways = [f for f in factors if np.array_equal(np.asarray(enhancer.enhance(f)), own)]
        assert ways
        chosen.append(ways[0])
    assert len(set(chosen)) == len(IMAGES)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_hues_turn_as_the_standard_library_turns_them(dtype: type) -> None:
    turn = np.float32([0, 0.1, -0.1, 0.5, -0.5, 1 / 3])
    images = IMAGES.copy()
    images[:, 0] = images[:, 0, :, :1]  # gray has no hue
    given = images if dtype == np.uint8 else np.float32(images / 255)
    found = np.asarray(jax.jit(turned)(given, jnp.asarray(turn)), np.float64)
    for image, own, by in zip(images / 255, found, turn, strict=True):
        for pixel, new in zip(image.reshape(-1, 3), own.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = np.array(colorsys.hsv_to_rgb((hue + float(by)) % 1, saturation, value))
            if dtype == np.uint8:
                assert np.abs(new - expected * 255).max() <= 0.501
            else:
                np.testing.assert_allclose(new, expected, atol=3e-6)
