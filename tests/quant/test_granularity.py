"""Granularity against slow loops: kernels of any layout, blocks that do not divide, and what cannot be cut."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Grid
from jaxcomp.quant import fake_quantize, fit_grid
from jaxcomp.quant.granularity import spread

KERNELS = {
    "dense": ((10, 3), None),
    "HWIO": ((3, 3, 2, 4), None),
    "depthwise HWIO": ((3, 3, 1, 4), -1),
    "OIHW": ((4, 2, 3, 3), 0),
    "heads": ((6, 2, 3), (1, 2)),
    "own axis amid": ((4, 3, 5), 1),
    "whole tensor": ((3, 7), ()),
}


def by_loops(w, axis, block):
    """abs-max of each block, at each of its weights."""
    own = [a % w.ndim for a in ([-1] if axis is None else np.atleast_1d(axis).astype(int))]
    shared = [a for a in range(w.ndim) if a not in own]
    turned = np.moveaxis(w, own, range(len(own)))
    rows = turned.reshape(-1 if own else 1, int(np.prod([w.shape[a] for a in shared])))
    out = np.empty_like(rows)
    for row, to in zip(rows, out, strict=True):
        for i in range(0, row.size, block):
            to[i : i + block] = np.abs(row[i : i + block]).max()
    return np.moveaxis(out.reshape(turned.shape), range(len(own)), own)


@pytest.mark.parametrize("block", [4, 100])
@pytest.mark.parametrize(("shape", "axis"), KERNELS.values(), ids=KERNELS.keys())
def test_blocks_lie_along_the_flattened_reduction(rng, shape, axis, block):
    w = rng.normal(size=shape).astype(np.float32)
    grid = fit_grid(jnp.asarray(w), 8, axis, block=block)
    assert grid.scale.ndim == w.ndim
    scale = spread(np.asarray(grid.scale), shape, grid.block)
    np.testing.assert_allclose(scale, by_loops(w, axis, block) / 127, rtol=1e-6)
    view = np.asarray(fake_quantize(jnp.asarray(w), grid, 8))
    np.testing.assert_allclose(view, np.rint(w / scale) * scale, rtol=1e-6)


def test_a_tensor_without_a_reduction_is_refused_at_its_path():
    quant = jc.quant.fake("nf4", block=32)
    with pytest.raises(ArgumentError, match=r"conv/bias: blocks of 32 .* the reduction.*jc.partition.*axis=\(\)"):
        quant.init({"conv": {"bias": jnp.ones(3)}})
    assert jc.quant.fake(4, block=2, axis=()).init(jnp.ones(3)).scale.shape == (2,)


@pytest.mark.parametrize("block", [0, -1, 2.0, True, "32"])
def test_other_blocks_are_refused(block):
    for make in (jc.quant.fake, jc.quant.lsq, jc.quant.pact, jc.quant.binary, jc.quant.ternary):
        with pytest.raises(ArgumentError, match="block must be a whole number of weights of at least 1, or None"):
            make(block=block)


@pytest.mark.parametrize("scales", [(4, 3), (1, 4), (2,), (3, 1)])
def test_a_grid_of_another_tensor_is_refused(scales):
    """One that would broadcast to more than the tensor too."""
    grid = Grid(jnp.ones(scales), jnp.zeros(scales, jnp.int32))
    with pytest.raises(ArgumentError, match=r"is of no tensor \(1, 3\)"):
        jc.quant.quantize(jnp.ones((1, 3)), grid, 8)
