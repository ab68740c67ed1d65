"""The numbers of qwix, where it quantizes alike."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.quant import dequantize, fit_grid, named, quantize

qwix = pytest.importorskip("qwix", reason="qwix is not installed: pip install -e '.[peers]'")

FORMATS = {
    "nf4": ("nf4", "absmax"),
    "fp8_e4m3": (jnp.float8_e4m3fn, "absmax"),
    "fp8_e5m2": (jnp.float8_e5m2, "absmax"),
    "fp4_e2m1": (jnp.float4_e2m1fn, "absmax"),
    "int8_affine": (jnp.int8, "minmax"),
    "int4_affine": (jnp.int4, "minmax"),
}


@pytest.mark.parametrize("block", [None, 16])
@pytest.mark.parametrize("name", FORMATS)
def test_the_same_values(name: str, block: int | None, rng: np.random.Generator) -> None:
    w = jnp.asarray(rng.standard_t(4, (64, 24)), jnp.float32)
    other, method = FORMATS[name]
    tiles = {} if block is None else {0: block}
    theirs = qwix.quantize(w, other, channelwise_axes=[1], tiled_axes=tiles, calibration_method=method)
    format = named(name)
    grid = fit_grid(w, format, -1, block=block)
    ours = dequantize(quantize(w, grid, format), grid, bits=format)
    np.testing.assert_allclose(np.ravel(grid.scale), np.ravel(theirs.scale), rtol=1e-6)
    if grid.scale.size and format.affine:
        np.testing.assert_array_equal(np.ravel(grid.zero_point), np.ravel(theirs.zero_point))
    off = np.asarray(ours) != np.asarray(qwix.dequantize(theirs))
    spread = np.asarray(jnp.broadcast_to(grid.scale.repeat(block or 64, 0), w.shape))
    near = np.abs(np.asarray(ours) - np.asarray(qwix.dequantize(theirs))) <= 1.01 * spread * max(np.diff(format.levels))
    assert off.mean() < 0.02  # halves, of which either neighbor is nearest
    assert near.all()
