"""Notes of another state cost nothing: the grid of the values is found, or a warning says what to do."""

import ml_dtypes
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.types import Block, Grid, Note
from jaxcomp.pack import coding, regrid
from jaxcomp.quant.formats import named
from jaxcomp.quant.granularity import grid_shape, spread

SHAPE = (40, 24)
LAYOUTS = {"tensor": ((1, 1), None), "channels": ((1, 24), None), "blocks": (None, Block(8, (1,)))}
FORMATS = (
    "int4",
    "int8",
    "int2",
    "int8_affine",
    "int4_affine",
    "binary",
    "nf4",
    "fp4_e2m1",
    "fp8_e4m3",
    "pot4",
    "apot4",
)


def view_on(format, layout, dtype, rng, part=1.0):
    """Levels times scales, and the grid; of ``part`` of the levels, as where the grid reaches beyond the values."""
    shape, block = LAYOUTS[layout]
    shape = shape or grid_shape(SHAPE, block)
    levels = np.asarray(format.levels)
    levels = levels[np.abs(levels) <= part * levels.max()]
    scale = rng.uniform(0.01, 0.3, shape).astype(np.float32)
    full = np.broadcast_to(spread(scale, SHAPE, block), SHAPE)
    view = (rng.choice(levels, SHAPE).astype(np.float32) * full).astype(dtype)
    return view, Grid(scale, np.zeros(shape, np.int32), block)


def stored(coded):
    return sum(map(len, coded.streams))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_grid_of_the_values_is_found(name, layout, rng):
    format = named(name)
    view, grid = view_on(format, layout, np.float32, rng)
    other = grid._replace(scale=rng.uniform(0.1, 1, grid.scale.shape).astype(np.float32))
    wanted, got = coding.encode(view, grid, name), coding.encode(view, other, name)
    assert not got.off_grid
    assert stored(got) <= 1.1 * stored(wanted)
    assert coding.decode(got, SHAPE, view.dtype).tobytes() == view.tobytes()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
def test_coarse_types_leave_the_scale_vague_and_the_bits_exact(dtype, rng):
    view, grid = view_on(named("int8"), "channels", dtype, rng)
    found = regrid.regrid(view, grid._replace(scale=grid.scale * 3), "int8", np.dtype(np.float32))
    again = coding.encode(view, found, "int8")
    assert again.kind.startswith("codes")
    assert coding.decode(again, SHAPE, view.dtype).tobytes() == view.tobytes()


def test_learned_steps_reach_beyond_their_values(rng):
    """Of the 15 levels 7 occur: the coarsest grid is found, not one of twice as many levels."""
    view, grid = view_on(named("int4"), "channels", np.float32, rng, part=0.5)
    found = regrid.regrid(view, grid._replace(scale=grid.scale * 3), "int4", np.dtype(np.float32))
    np.testing.assert_allclose(found.scale, grid.scale, rtol=1e-6)


@pytest.mark.parametrize("change", ["dense", "one value", "nan", "other shape", "other format"])
def test_what_lies_on_no_grid_is_named_with_what_to_do(change, rng, tmp_path):
    view, grid = view_on(named("int4"), "tensor", np.float32, rng)
    if change == "dense":
        view = rng.normal(size=SHAPE).astype(np.float32)
    if change in ("one value", "nan"):
        view[3, 4] = np.float32(0.1234567) if change == "one value" else np.nan
    grid = grid._replace(scale=np.ones((1, 7) if change == "other shape" else (1, 1), np.float32))
    note = Note(bits=4, grid=grid, format="pot4" if change == "other format" else "int4")
    with pytest.warns(UserWarning, match=r"grids for a/w on which .* recipe.describe\(params, state, step\)"):
        jc.pack.save(tmp_path / "m.jcz", {"a": {"w": view}}, notes={"a/w": note})
    loaded, _ = jc.pack.load(tmp_path / "m.jcz")
    assert loaded["a"]["w"].tobytes() == view.tobytes()


def test_zeros_need_no_grid(rng):
    view, grid = view_on(named("int4"), "channels", np.float32, rng)
    view[:, ::2] = 0
    grid = grid._replace(scale=np.full((1, 24), np.nan, np.float32))
    assert not coding.encode(view, grid, "int4").off_grid
