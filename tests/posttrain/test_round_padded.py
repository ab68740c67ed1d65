"""Layers that are padded to common sizes: rounded as they are alone; few programs for many shapes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.types import Grid
from jaxcomp.observe.factored import Factored
from jaxcomp.posttrain.round_padded import COLUMNS, LENGTHS, ROWS, Rounder, common, on_grid
from jaxcomp.quant.fake import fake_quantize
from jaxcomp.quant.formats import integer
from jaxcomp.quant.gptq import descend, gptq

RNG = np.random.default_rng(0)
FORMAT = integer(4)


def layer(groups: int, size: int, out: int) -> tuple[np.ndarray, ...]:
    """A moment, weights of which some are 0, and their scales and zero points."""
    rows = RNG.standard_normal((groups, 3 * size, size)) @ RNG.standard_normal((groups, size, size)) + 1
    weight = RNG.standard_normal((groups, size, out)) * (RNG.random((groups, size, out)) < 0.9)
    scale = np.broadcast_to(np.abs(weight).max(1, keepdims=True) / 7, weight.shape)
    moment = np.einsum("gpi,gpj->gij", rows, rows) / rows.shape[1]
    return *(np.asarray(x, np.float32) for x in (moment, weight, scale)), np.zeros(weight.shape, np.int32)


@pytest.mark.parametrize(("groups", "size", "out"), [(1, 70, 300), (3, 5, 4)])
def test_padding_changes_nothing(groups: int, size: int, out: int) -> None:
    moment, weight, scale, zero_point = layer(groups, size, out)
    kept, inputs = weight != 0, Factored.of(moment, 0.01, True)
    rounder, grid = Rounder(inputs, FORMAT), Grid(jnp.asarray(scale), jnp.asarray(zero_point))
    found = rounder.fix(weight, scale, zero_point, kept)
    alone = np.asarray(gptq(jnp.asarray(weight), jnp.asarray(inputs.moment), grid, FORMAT, jnp.asarray(kept)))
    assert np.mean(np.abs(found - alone) > 1e-5) < 0.001
    assert not found[~kept].any()
    moved = rounder.descend(weight, alone, (scale, zero_point, kept), 2)
    other = descend(*map(jnp.asarray, (weight, alone, inputs.moment)), grid, FORMAT, jnp.asarray(kept), sweeps=2)
    assert np.mean(np.abs(moved - np.asarray(other)) > 1e-5) < 0.001
    assert (inputs.error(moved - weight) <= inputs.error(alone - weight) * (1 + 1e-4)).all()


def test_numbers_are_rounded_as_tensors_are() -> None:
    values = RNG.standard_normal((3, 1500)).astype(np.float32)
    scale, zero = np.full_like(values, 0.1), np.zeros(values.shape, np.int32)
    whole = fake_quantize(jnp.asarray(values), Grid(jnp.float32([[0.1]]), jnp.zeros((1, 1), int)), FORMAT)
    np.testing.assert_array_equal(on_grid(values, scale, zero, FORMAT), whole)


def test_sizes_are_few() -> None:
    assert {common(size, ROWS) for size in range(1, 4609)} == {64, 256, 1024, 2048, 3072, 4096, 5120}
    assert {common(size, COLUMNS, several=True) for size in range(1, 3000)} == {*COLUMNS}
    assert common(10**8, LENGTHS, several=True) == LENGTHS[-1]
