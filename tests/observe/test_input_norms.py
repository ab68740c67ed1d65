"""The norms of what weights read are NumPy's, and the score that uses them prunes what sparsify prunes."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.observe import input_norms
from jaxcomp.posttrain import sparsify

RNG = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


PARAMS = {
    "hwio": normal(3, 3, 4, 8),
    "oihw": normal(6, 4, 3, 3),
    "grouped": normal(3, 3, 2, 6),
    "heads": normal(4, 2, 3),
    "stack": normal(3, 4, 4),
    "tall": normal(2, 10_000),
    "blind": normal(4, 2),
    "scale": normal(4),
}
BATCHES = [normal(2, 5, 5, 4), normal(2, 5, 5, 4)]


def network(p: Any, x: jax.Array) -> Any:
    def conv(x: jax.Array, kernel: Any, layout: str, **options: Any) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, padding="SAME", dimension_numbers=("NHWC", layout, "NHWC"), **options
        )

    rows = x.reshape(-1, 4)
    stacked = lax.scan(lambda h, w: (h @ w, None), rows, p["stack"])[0]
    return (
        conv(x, p["hwio"], "HWIO", window_strides=(2, 2)),
        conv(x, p["oihw"], "OIHW", window_strides=(1, 1)),
        conv(x, p["grouped"], "HWIO", window_strides=(1, 1), feature_group_count=2),
        jnp.einsum("ni,ihs->nhs", rows, p["heads"].astype(jnp.bfloat16)),
        jnp.repeat(rows, 2500, axis=1) @ p["tall"].T * p["scale"][0],
        (rows * 0) @ p["blind"],
        stacked,
    )


def windows(stride: int) -> np.ndarray:
    """``[3, 3, in]``: the norm of what each place of a 3 x 3 window sees."""
    x, squares = np.concatenate(BATCHES).astype(np.float64), np.zeros((3, 3, 4))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # SAME of 5 pixels, by strides of 1 and 2
    for h, w in itertools.product(range(3), repeat=2):
        squares[h, w] = (padded[:, h : h + 5 : stride, w : w + 5 : stride] ** 2).sum((0, 1, 2))
    return np.sqrt(squares)


def test_norms_are_those_of_numpy_in_every_layout() -> None:
    norms = input_norms(network, PARAMS, BATCHES)
    rows = np.concatenate(BATCHES).astype(np.float64).reshape(-1, 4)
    own, hidden, stack = np.sqrt((rows**2).sum(0)), rows, []
    for w in np.asarray(PARAMS["stack"], np.float64):
        stack.append(np.sqrt((hidden**2).sum(0)))
        hidden = hidden @ w
    by_group = windows(1).reshape(3, 3, 2, 2).transpose(0, 1, 3, 2)  # [3, 3, in of a group, group]
    wanted = {
        "hwio": windows(2)[..., None],
        "oihw": windows(1).transpose(2, 0, 1)[None],
        "grouped": np.repeat(by_group, 3, axis=3),
        "heads": own[:, None, None],
        "stack": np.stack(stack)[..., None],
        "tall": np.repeat(own, 2500)[None],
    }
    assert norms.keys() == wanted.keys()  # nothing of what reads zeros, or is read by no matmul
    for path, own in norms.items():
        assert (own.shape, own.dtype) == (wanted[path].shape, jnp.float32)
        np.testing.assert_allclose(own, wanted[path], rtol=1e-5)


def model(p: Any, x: jax.Array) -> jax.Array:
    spread = lambda x: x * 4.0 ** -(jnp.arange(x.shape[-1]) % 4)  # noqa: E731
    numbers = ("NHWC", "HWIO", "NHWC")
    h = jax.nn.relu(lax.conv_general_dilated(spread(x), p["conv"], (1, 1), "SAME", dimension_numbers=numbers))
    return spread(jax.nn.relu(spread(h.mean((1, 2))) @ p["up"])) @ p["down"]


SMALL = {"conv": normal(3, 3, 4, 6), "up": normal(6, 16), "down": normal(16, 3)}


@pytest.mark.parametrize("asked", [{"sparsity": 0.6}, {"pattern": jc.prune.nm(2, 4)}], ids=["sparsity", "2:4"])
def test_the_score_prunes_what_sparsify_prunes_on_dense_inputs(asked: Any) -> None:
    """Also where 60 % of an output's weights are no whole number; of inputs that differ, else magnitude wins."""
    sparse = sparsify(model, SMALL, BATCHES, method="wanda", reference="dense", **asked)
    recipe = {"sparsity": 0.5, "distribution": "per_output", **asked}
    pruner = jc.partition([(".*", jc.prune.prune(score="wanda", **recipe))])
    norms = input_norms(model, SMALL, BATCHES)
    state = pruner.update(SMALL, pruner.init(SMALL), 1, statistics=norms)
    fixed = jc.prune.prune(**recipe, score=jc.prune.wanda(norms)).init(SMALL)
    for path, mask in state[0].items():
        np.testing.assert_array_equal(fixed[path], mask)
        np.testing.assert_array_equal(mask, sparse.masks[path])
        assert int(mask.sum()) < mask.size


def test_batches_are_needed_and_missing_norms_named() -> None:
    with pytest.raises(ArgumentError, match="batches= gave no batch"):
        input_norms(model, SMALL, [])
    pruner = jc.prune.prune(0.5, "wanda")
    with pytest.raises(ArgumentError, match=r"needs a statistic of 'scale'.* jc.observe.input_norms"):
        pruner.update({"scale": jnp.ones(4)}, None, 1, statistics={"w": jnp.ones((4, 1))})
