"""A module in place of a module trains as the function does, and is what runs in integers."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxcomp as jc
import jaxcomp.nnx
from jaxcomp.core.errors import ArgumentError

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 6)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
SCHEME = jc.rewrite.Scheme(4, input_bits=4)


class Net(nnx.Module):
    """With batch statistics and random numbers, both of which calls move."""

    def __init__(self, rngs: nnx.Rngs):
        self.up = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.down = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.drop(nnx.relu(self.norm(self.up(x)))))


@nnx.jit
def step(model: nnx.Module, optimizer: nnx.Optimizer) -> None:
    """That of somebody who knows nothing of compression."""
    grads = nnx.grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
    optimizer.update(model, grads)


def by_hand(steps: int, **options: Any) -> Any:
    """What is trained, by the function and a loop around it."""
    graphdef, state = nnx.split(Net(nnx.Rngs(0)))

    def apply_fn(state: Any, x: jax.Array) -> Any:
        model = nnx.merge(graphdef, state)
        return model(x), nnx.state(model, nnx.Not(nnx.Param))

    fn, both = jc.rewrite.qat(apply_fn, state, [X], SCHEME, **options)
    tx = optax.adam(1e-2)

    def trained(both: Any) -> Any:
        return nnx.state(nnx.merge(graphdef, both["params"]), nnx.Param), both["steps"]

    @jax.jit
    def once(both: Any, opt_state: Any) -> Any:
        def loss(own: Any) -> Any:
            params = nnx.merge_state(own[0], nnx.state(nnx.merge(graphdef, both["params"]), nnx.Not(nnx.Param)))
            (out, moved), ranges = fn.observed({"params": params, "steps": own[1], "ranges": both["ranges"]}, X)
            return jnp.mean((out - Y) ** 2), (moved, ranges)

        grads, (moved, ranges) = jax.grad(loss, has_aux=True)(trained(both))
        updates, opt_state = tx.update(grads, opt_state)
        params, own = optax.apply_updates(trained(both), updates)
        return {"params": nnx.merge_state(params, moved), "steps": own, "ranges": ranges}, opt_state

    opt_state = tx.init(trained(both))
    for _ in range(steps):
        both, opt_state = once(both, opt_state)
    return both


@pytest.mark.parametrize("input_grids", ["lsq", "average"])
def test_a_module_trains_as_its_function_does(input_grids: Literal["lsq", "average"]) -> None:
    model = jaxcomp.nnx.QAT(Net(nnx.Rngs(0)), [X], SCHEME, input_grids=input_grids)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    start = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))
    for _ in range(3):
        step(model, optimizer)
    after, wanted = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))), by_hand(3, input_grids=input_grids)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start, after)
    assert all(jax.tree.leaves((moved["model"], moved["steps"])))
    own = nnx.to_pure_dict(nnx.filter_state(wanted["params"], nnx.Not(nnx.RngState)))
    for got, want in (
        (after["model"], own),
        (after["steps"], wanted["steps"]),
        (after.get("ranges", {}), wanted["ranges"]),
    ):
        got, want = jc.core.paths.named_leaves(got), jc.core.paths.named_leaves(want)
        assert got.keys() == want.keys()
        for path, leaf in want.items():
            np.testing.assert_allclose(got[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)

    integers, packed = model.quantized(X)
    model.eval()
    ranges = jax.tree.map(jnp.copy, nnx.state(model))
    np.testing.assert_array_equal(nnx.jit(lambda model: model(X))(model), jax.jit(integers)(packed, X))
    jax.tree.map(
        np.testing.assert_array_equal, nnx.state(model, nnx.Not(nnx.RngState)), ranges.filter(nnx.Not(nnx.RngState))
    )
    assert [row.format for row in model.report.rows] == ["4", "4"]


def test_zeros_stay_under_any_optimizer_and_what_is_no_module_is_refused() -> None:
    net = Net(nnx.Rngs(0))
    zeros = jnp.abs(net.up.kernel[...]) < 0.2
    net.up.kernel[...] = jnp.where(zeros, 0, net.up.kernel[...])
    model = jaxcomp.nnx.QAT(net, [X], SCHEME, keep_zeros=True)
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2, weight_decay=0.1), wrt=nnx.Param)
    for _ in range(2):
        step(model, optimizer)
    np.testing.assert_array_equal(model.model.up.kernel[...] == 0, zeros)
    packed = model.quantized(X)[1]
    assert (packed["up"]["kernel"].dense()[zeros] == 0).all()
    with pytest.raises(ArgumentError, match=r"model must be an nnx.Module, got function: .* call jaxcomp.rewrite.qat"):
        jaxcomp.nnx.QAT(lambda x: x, [X])  # type: ignore[arg-type]


def test_signs_take_the_slope_of_a_call() -> None:
    model = jaxcomp.nnx.QAT(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), [jnp.ones((3, 4))], jc.rewrite.Scheme(1, inputs=None))

    def largest(slope: Any) -> float:
        grads = nnx.grad(lambda model: model(jnp.ones((3, 4)), slope=slope).sum())(model)
        return float(jnp.abs(grads["model"]["kernel"][...]).max())

    assert largest(None) > 0
    assert largest(jnp.zeros_like) == 0
