"""The law of stacked layers: a recipe sees each as the same network unstacked would show it, to the bit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc

from .compressors import COMPRESSORS, MIXES, STEPS
from .containers import weights
from .executions import bit_equal, close, trajectory

LAYERS = 3
OFTEN = ("chain", "symmetric-channel-int4")


def unstacked(seed: int = 0) -> Any:
    """Layers of unlike sizes, as leaves of their own."""
    shapes = {"bias": (5,), "kernel": (3, 3, 8, 5)}
    return {
        str(i): {"conv": {k: 0.1**i * weights(s, jnp.float32, 7 * i + seed) for k, s in shapes.items()}}
        for i in range(LAYERS)
    }


def together(layers: Any, axis: int = 0) -> Any:
    return jax.tree.map(lambda *own: jnp.stack(own, axis), *(layers[str(i)] for i in range(LAYERS)))


def subject(name: str) -> tuple[jc.Compressor, Any]:
    return COMPRESSORS[name](), trajectory(unstacked())


@pytest.mark.parametrize(
    "name",
    [
        name if name in OFTEN else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in COMPRESSORS
        if not name.startswith(("channels", "stacked"))  # of which groups know, and which are stacked already
    ],
)
def test_stacked_layers_are_compressed_as_unstacked_ones(name):
    made, moved = subject(name)
    stacked = jc.stacked(0, made)
    state, own = made.init(moved[0]), stacked.init(together(moved[0]))
    agree = close if name.startswith(MIXES) else bit_equal
    for i, layers in enumerate(moved):
        state = made.update(layers, state, i) if i else state
        own = stacked.update(together(layers), own, i) if i else own
        assert agree(stacked.apply(together(layers), own), together(made.apply(layers, state)))
    kept, shown = jc.prune.kept(stacked, together(moved[-1]), own), together(jc.prune.kept(made, moved[-1], state))
    assert bit_equal(kept, shown)
    _check_notes(stacked.describe(together(moved[-1]), own, STEPS), made.describe(moved[-1], state, STEPS))


def _check_notes(stacked: Any, notes: Any) -> None:
    for path, note in stacked.items():
        own = [notes[f"{i}/{path}"] for i in range(LAYERS)]
        assert [each._replace(grid=None) for each in own] == list(note.layers)
        if note.grid is not None:
            np.testing.assert_array_equal(note.grid.scale, jnp.stack([each.grid.scale for each in own]))


@pytest.mark.parametrize(
    "make",
    [
        lambda **how: jc.prune.magnitude(0.5, **how),
        lambda **how: jc.prune.prune(0.5, distribution="erk", pattern=jc.prune.blocks((2, 2)), **how),
        lambda **how: jc.quant.fake(4, block=7, axis=-1, **how),
        lambda **how: jc.quant.lsq(4, **how),
        lambda **how: jc.quant.pact(4, axis=-1, **how),
        lambda **how: jc.lowrank.project(2, **how),
    ],
    ids=["magnitude", "erk-blocks", "fake-blocks", "lsq", "pact", "lowrank"],
)
@pytest.mark.parametrize("axis", [1, pytest.param(-1, marks=pytest.mark.exhaustive)])
def test_any_axis_may_count_layers(make, axis):
    layers = {str(i): {"kernel": 10.0**-i * weights((8, 6), jnp.float32, i)} for i in range(LAYERS)}
    params, alone = together(layers, axis), make()
    stacked = make(stacked=axis)
    state = stacked.init(params)
    views = stacked.apply(params, state)["kernel"]
    expected = together(alone.apply(layers, alone.init(layers)), axis)["kernel"]
    np.testing.assert_array_equal(views, expected)
    grid = stacked.describe(params, state, 0)["kernel"].grid
    if grid is not None:  # which stores and ships the view
        codes = jc.quant.quantize(views, grid, 4)
        np.testing.assert_array_equal(jc.quant.dequantize(codes, grid), expected)


def test_leaves_that_are_not_stacked_take_part_as_they_are():
    """A global threshold over stacked and other leaves; what no rule selects comes back itself."""
    params = {"blocks": {"w": jnp.arange(12.0).reshape(2, 3, 2)}, "head": jnp.array([11.5, 0.5]), "step": jnp.array(3)}
    recipe = jc.stacked([("blocks/.*", 0)], jc.prune.magnitude(0.5, scope="global"))
    view = recipe.apply(params, recipe.init(params))
    assert int((view["blocks"]["w"] == 0).sum()) == 6
    assert view["head"].tolist() == [11.5, 0.0]
    assert view["step"] is params["step"]
    alone = jc.stacked([("blocks/.*", 0)], jc.partition([("1/blocks/w", jc.prune.magnitude(0.5))]))
    view = alone.apply(params, alone.init(params))
    assert view["head"] is params["head"]
    assert jnp.array_equal(view["blocks"]["w"][0], params["blocks"]["w"][0])
    whole = jc.stacked(0, jc.identity())
    kernel = {"w": jnp.ones((2, 3))}
    assert whole.apply(kernel, whole.init(kernel))["w"] is kernel["w"]
    with pytest.raises(jc.errors.JaxcompError, match=r"'head' of shape \(2,\) has no axis 1 that could count layers"):
        jc.prune.magnitude(0.5, stacked=1).init(params)


def test_gradients_and_statistics_are_those_of_the_layers():
    layers = unstacked()
    grads = unstacked(seed=3)
    made = jc.partition([(".*kernel", jc.prune.prune(0.5, "movement", distribution="global"))])
    stacked = jc.stacked(0, made)
    state = stacked.update(together(layers), stacked.init(together(layers)), 1, grads=together(grads))
    expected = made.update(layers, made.init(layers), 1, grads=grads)
    assert bit_equal(stacked.apply(together(layers), state), together(made.apply(layers, expected)))
    matrices = {str(i): {"w": weights((4, 3), jnp.float32, i)} for i in range(LAYERS)}
    norms = {f"{i}/w": jnp.arange(1.0, 5.0)[:, None] ** i for i in range(LAYERS)}
    wanda = jc.prune.prune(0.5, "wanda")
    expected = wanda.update(matrices, wanda.init(matrices), 1, statistics=norms)
    stacked, own = jc.prune.prune(0.5, "wanda", stacked=0), together(matrices)
    for given in (jnp.stack(list(norms.values())), jnp.stack(list(norms.values()))[..., 0]):
        state = stacked.update(own, stacked.init(own), 1, statistics={"w": given})
        assert bit_equal(stacked.apply(own, state), together(wanda.apply(matrices, expected)))
    with pytest.raises(jc.errors.JaxcompError, match="must have its 3 layers along axis 0"):
        stacked.update(own, state, 1, statistics={"w": jnp.ones((2, 4, 1))})


def test_a_scanned_network_trains_ships_and_reports_layer_by_layer(tmp_path):
    """As a user does it: the view inside the scan's loss, an optimizer under masks, the file, the table."""
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 0.1, 0.01])[:, None, None]
    params = {"blocks": jnp.asarray(rng.normal(size=(3, 6, 6)) * scale, jnp.float32)}
    x = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
    recipe = jc.stacked(0, jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(4, axis=-1)))
    tx = jc.prune.masked_optimizer(optax.adam(1e-3))

    def loss(params, state):
        out, _ = jax.lax.scan(lambda x, w: (x + x @ w, None), x, recipe.apply(params, state)["blocks"])
        return jnp.square(out - 1).mean()

    @jax.jit
    def step(params, state, opt_state, i):
        state = recipe.update(params, state, i)
        masks = jc.prune.kept(recipe, params, state)
        updates, opt_state = tx.update(jax.grad(loss)(params, state), opt_state, params, masks=masks)
        return optax.apply_updates(params, updates), state, opt_state

    state, opt_state = recipe.init(params), tx.init(params)
    for i in range(3):
        params, state, opt_state = step(params, state, opt_state, i)
    view, notes = recipe.apply(params, state), recipe.describe(params, state, 3)
    rows = jc.measure.summary(view, notes=notes).rows
    assert [row.path for row in rows] == ["blocks[0]", "blocks[1]", "blocks[2]"]
    assert [(row.asked, row.sparsity, row.bits, row.shape) for row in rows] == [(0.5, 0.5, 4, (6, 6))] * 3
    jc.pack.save(tmp_path / "m.jcz", view, notes=notes)
    np.testing.assert_array_equal(jc.pack.load(tmp_path / "m.jcz", like=view)[0]["blocks"], view["blocks"])
    plain = tmp_path / "plain.jcz"
    jc.pack.save(plain, view)
    assert (tmp_path / "m.jcz").stat().st_size < plain.stat().st_size
