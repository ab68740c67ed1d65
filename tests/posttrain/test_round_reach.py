"""The reach of a grid: what is not tried to the end changes nothing."""

import numpy as np
import pytest

from jaxcomp.core.factored import Factored
from jaxcomp.posttrain import round_reach
from jaxcomp.quant.formats import integer
from jaxcomp.quant.gptq import fixed
from jaxcomp.quant.padded import on_grid

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("sweeps", [True, False])
def test_the_best_of_all_parts_of_the_range_is_found(
    apart: bool, sweeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_reach, "GUESSED", 16)
    format, ratios = integer(3), np.linspace(1, 0.2, 9).astype(np.float32)
    rows = RNG.standard_normal((1, 300, 140)) @ RNG.standard_normal((1, 140, 140))
    inputs = Factored.of(np.einsum("gpi,gpj->gij", rows, rows) / 300, 0.01, True)
    old = RNG.standard_t(4, (1, 140, 6)).astype(np.float32)
    old[..., 0], aim = 0, (old + 0.05 * RNG.standard_normal(old.shape)).astype(np.float32)
    scale = np.broadcast_to(np.abs(old).max((1, 2) if not apart else 1, keepdims=True) / 3 + 0.01, old.shape)
    numbers = scale.astype(np.float32), np.zeros(old.shape, np.int32), old != 0
    found, reach = round_reach.searched(old, aim, numbers, inputs, ratios, format, sweeps, apart)
    tried = []
    for ratio in ratios:
        own = numbers[0] * ratio, *numbers[1:]
        near = np.where(own[2], on_grid(old, own[0], own[1], format), 0)
        each = [(near, inputs.error(near - aim))] + ([fixed(aim, inputs, own, format)] if sweeps else [])
        tried += [(ratio, x, errors if apart else np.full_like(errors, errors.sum())) for x, errors in each]
    best = np.argmin([errors for *_, errors in tried], 0)
    expected = np.take_along_axis(np.stack([x for _, x, _ in tried]), best[None], 0)[0]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(reach, np.asarray([ratio for ratio, *_ in tried], np.float32)[best])
