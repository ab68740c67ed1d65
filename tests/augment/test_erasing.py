"""What random erasing takes away: one rectangle, of some images, of the size that is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import augment

KEY = jax.random.key(0)


def test_one_rectangle_of_some_images_is_erased() -> None:
    images = np.full((512, 40, 30, 1), 7, np.uint8)
    found = np.asarray(augment.random_erasing(0.25, fill=0)(KEY, images)[0])[..., 0] == 0
    erased = found[found.any((1, 2))]
    assert 0.19 < len(erased) / 512 < 0.31  # 3 deviations of a quarter
    shares, ratios = [], []
    for image in erased:
        (y, x) = (np.nonzero(image.any(axis))[0] for axis in (1, 0))
        assert image.sum() == (y[-1] + 1 - y[0]) * (x[-1] + 1 - x[0])  # full
        shares.append(image.mean())
        ratios.append(len(x) / len(y))
    assert 0.01 < min(shares) < 0.05
    assert 0.28 < max(shares) < 0.35
    assert min(ratios) < 0.5
    assert max(ratios) > 2


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_noise_is_uniform(dtype: jnp.dtype) -> None:
    white = jnp.full((64, 32, 32, 3), 255 if dtype == jnp.uint8 else 1, dtype)
    found = augment.random_erasing(1.0, area=(0.3, 0.3))(KEY, white)[0]
    levels = np.asarray(found.astype(jnp.float32)) / (255 if dtype == jnp.uint8 else 1)
    inside = levels[(levels < 1).any(-1)]
    assert abs(len(inside) / (64 * 32 * 32) - 0.3) < 0.02
    assert abs(inside.mean() - 0.5) < 0.01
    assert abs(inside.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(inside.T)[0, 1]) < 0.05  # channels are independent


def test_nothing_that_does_not_fit_is_erased() -> None:
    images = np.full((16, 4, 64, 1), 7, np.uint8)  # of half of the area no square fits
    found = augment.random_erasing(1.0, area=(0.5, 0.5), ratio=(1, 1), fill=0)(KEY, images)[0]
    np.testing.assert_array_equal(found, images)
