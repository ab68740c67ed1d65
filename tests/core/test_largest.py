"""What NumPy selects outside of jit are the masks that the search finds under it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core import threshold
from jaxcomp.core.largest import keep_largest
from tests.core import reference

RNG = np.random.default_rng(0)
SPECIAL = np.where(RNG.random(300) < 0.1, np.nan, RNG.integers(-3, 4, 300))
SPECIAL[::17] = np.inf


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("score", [jnp.abs, threshold.itself], ids=lambda score: score.__name__)
def test_masks_are_those_of_the_search(monkeypatch: pytest.MonkeyPatch, dtype: str, score: Any) -> None:
    """With ties, zeros of both signs, NaN and infinity, of groups of several arrays and of counts at both ends."""
    values = [jnp.asarray(part, dtype) for part in (SPECIAL[:200].reshape(20, 10), SPECIAL[200:], RNG.normal(size=40))]
    cases = [([0, 40], [0, 0, 1]), ([150, 7], [0, 0, 1]), ([11, 60, 1], [0, 1, 2]), ([340], [0, 0, 0])]
    scores = [np.asarray(score(value.astype(jnp.float32)), np.float64) for value in values]
    monkeypatch.setattr(threshold, "keep_largest", lambda *args, **named: pytest.fail("it was compiled"))
    for keep, group in cases:
        found = keep_largest(values, keep, group, score=score)
        jax.tree.map(np.testing.assert_array_equal, found, reference.keep_largest(scores, keep, group))


def test_under_jit_and_of_complex_numbers_it_is_the_search() -> None:
    x, z = jnp.asarray(RNG.normal(size=50), jnp.float32), jnp.asarray([3j, -4, 1 + 1j])
    (mask,) = jax.jit(lambda x, n: keep_largest([x], [n], [0]))(x, 9)
    np.testing.assert_array_equal(mask, keep_largest([x], [9], [0])[0])
    assert keep_largest([z], [2], [0])[0].tolist() == [True, True, False]


def test_masks_are_where_the_weights_are() -> None:
    device = jax.devices()[-1]
    (mask,) = keep_largest([jax.device_put(jnp.arange(4.0), device)], [1], [0])
    assert mask.devices() == {device}
    assert mask.committed
    assert not keep_largest([jnp.arange(4.0)], [1], [0])[0].committed
