"""The new function is an ordinary one; what does not fit is refused with advice."""

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.rewrite import mask, shrink
from jaxcomp.trace import groups
from tests.rewrite.parity import TOLERANCE, distance, randomize

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
PARAMS = randomize({"a": jnp.ones((3, 8)), "b": jnp.ones(8), "c": jnp.ones((8, 6)), "d": jnp.ones((6, 2))})
KEEP = {"a": np.arange(8) != 3, "c": np.arange(6) > 1}


def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(jax.nn.gelu(x @ p["a"] + p["b"]) @ p["c"]) @ p["d"]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any, Any]:
    """The new function, its parameters, and the masked ones."""
    return *shrink(apply_fn, PARAMS, X, keep=KEEP), mask(groups(apply_fn, PARAMS, X), PARAMS, KEEP)


@pytest.mark.parametrize("cut", [slice(5, 8), slice(0, 3), slice(2, 6), slice(0, 7)])
def test_channels_side_by_side_that_meet_what_broadcasts(cut: slice) -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = x @ p["a"]
        h = h / (1 + (h * h).sum(-1, keepdims=True)) + p["b"] * x[:, :1]
        return jnp.concatenate([h, x[:, 1:2]], axis=-1) @ jnp.ones((9, 2))

    keep = np.ones(8, bool)
    keep[cut] = False
    new, small = shrink(function, PARAMS, X, keep={"a": keep})
    masked = mask(groups(function, PARAMS, X), PARAMS, {"a": keep})
    assert distance(function(masked, X), new(small, X)) <= TOLERANCE


def test_a_symbolic_batch_size() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ p["a"] + p["b"])
        h = h - h.mean(0)  # 0 where it was cut, over whatever number of rows
        h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h), None), h, length=2)
        return h @ p["c"] @ p["d"]

    new, small = shrink(function, PARAMS, X, keep=KEEP)
    loss = jax.grad(lambda p, x: (new(p, x) ** 2).sum())
    (rows,) = jax.export.symbolic_args_specs((X,), "n, ...")
    more = jnp.concatenate([X, X + 1, X])
    for each in (new, loss):
        program = jax.export.export(jax.jit(each), platforms=("cpu", "tpu", "cuda"))(small, rows)
        same = jax.tree.map(jnp.array_equal, program.call(small, more), jax.jit(each)(small, more))
        assert all(jax.tree.leaves(same))


def test_sums_over_devices_pass(pair: Any) -> None:
    def normed(p: Any, x: jax.Array) -> jax.Array:
        h = x @ p["a"]
        return (h - jax.lax.pmean(h, "devices")) @ p["c"] @ p["d"]

    def each(x: jax.Array) -> jax.Array:
        new, small = shrink(normed, PARAMS, x, keep=KEEP)
        return new(small, x)

    masked = jax.vmap(normed, in_axes=(None, 0), axis_name="devices")(pair[2], X[:, None])
    assert distance(masked, jax.vmap(each, axis_name="devices")(X[:, None])) <= TOLERANCE


def test_shrunk_again(pair: Any) -> None:
    new, small, masked = pair
    newer, smaller = shrink(new, small, X, keep={"a": np.arange(7) < 5})
    also = mask(groups(apply_fn, PARAMS, X), masked, {"a": np.array([1, 1, 1, 0, 1, 1, 0, 0], bool)})
    assert smaller["a"].shape == (3, 5)
    assert distance(apply_fn(also, X), newer(smaller, X)) <= TOLERANCE


def test_an_optimizer_goes_on_with_its_state_cut(pair: Any) -> None:
    new, small, masked = pair
    optimizer = optax.adam(0.1)
    loss = jax.grad(lambda p, f: (f(p, X) ** 2).sum())
    _, state = optimizer.update(loss(masked, apply_fn), optimizer.init(PARAMS), PARAMS)
    updates, _ = optimizer.update(loss(masked, apply_fn), state, masked)
    updates_small, _ = optimizer.update(loss(small, new), new.cut(state), small)
    assert distance(new.cut(updates), updates_small) <= 1e-4  # adam divides by what may be small


def test_a_plan_is_made_once_a_shape(pair: Any) -> None:
    calls = []

    def counted(p: Any, x: jax.Array) -> jax.Array:
        calls.append(x.shape)
        return apply_fn(p, x)

    new, small = shrink(counted, PARAMS, X, keep=KEEP)
    for x in (X, X, X[:2], X):
        new(small, x)
    assert calls == [(4, 3), (2, 3)]


def test_a_function_that_closes_over_traced_values(pair: Any) -> None:
    _, _, masked = pair

    @jax.jit
    def outer(factor: jax.Array, small: Any) -> jax.Array:
        new, _ = shrink(lambda p, x: apply_fn(p, x) * factor, PARAMS, X, keep=KEEP)
        return new(small, X) + new(small, X)

    assert distance(6 * apply_fn(masked, X), outer(jnp.float32(3), pair[1])) <= TOLERANCE


def test_coupling_that_changes_with_the_shape_is_refused() -> None:
    params = {"a": jnp.ones((3, 8)), "b": jnp.ones((3, 8)), "c": jnp.ones((8, 2)), "d": jnp.ones((8, 2))}

    def function(p: Any, x: jax.Array) -> jax.Array:
        if len(x) > 4:
            return jnp.tanh(x @ p["a"] + x @ p["b"]) @ (p["c"] + p["d"])
        return jnp.tanh(x @ p["a"]) @ p["c"] + jnp.tanh(x @ p["b"]) @ p["d"]

    new, small = shrink(function, params, X, keep={"a": np.arange(8) < 4})
    assert new(small, X).shape == (4, 2)
    with pytest.raises(ArgumentError, match="go together with others"):
        new(small, jnp.ones((5, 3)))


def test_a_channel_that_must_stay_at_another_shape_is_refused() -> None:
    params = {"a": jnp.ones((3, 8)), "c": jnp.ones((8, 2))}

    def function(p: Any, x: jax.Array) -> jax.Array:
        h = x @ p["a"]
        return (jax.nn.softmax(h) if len(x) > 4 else jnp.tanh(h)) @ p["c"]

    new, small = shrink(function, params, X, keep={"a": np.arange(8) < 4})
    with pytest.raises(ArgumentError, match="must be kept"):
        new(small, jnp.ones((5, 3)))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"a": np.ones(7, bool)}, r"'a' must be bool of shape \(8,\).*got bool of shape \(7,\)"),
        ({"a": np.ones(8)}, "must be bool"),
        ({"a": np.zeros(8, bool)}, "keep at least one"),
        ({"d": np.array([True, False])}, "'d' is a member of several|cannot be cut|must be bool"),
        ({"d:1": np.array([True, False])}, "cannot be cut: they are the function's result"),
        ({"a:0": np.ones(3, bool)}, "cannot be cut: it sums over them"),
        ({"nothing": np.ones(3, bool)}, "no group is called 'nothing'"),
    ],
)
def test_what_does_not_fit_is_refused(keep: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        shrink(apply_fn, PARAMS, X, keep=keep)


def test_parameters_of_other_shapes_are_refused(pair: Any) -> None:
    new, _, _ = pair
    with pytest.raises(ArgumentError, match=r"at 'a' it needs shape \(3, 7\) and got \(3, 8\)"):
        new(PARAMS, X)


def test_any_members_path_names_its_group() -> None:
    for name in ("a", "b", "a:1", "c:0"):
        _, small = shrink(apply_fn, PARAMS, X, keep={name: KEEP["a"]})
        assert small["a"].shape == (3, 7)


def test_costs_of_what_is_left() -> None:
    found = groups(apply_fn, PARAMS, X)
    assert found.macs() == 4 * (3 * 8 + 8 * 6 + 6 * 2)
    assert found.macs(KEEP) == 4 * (3 * 7 + 7 * 4 + 4 * 2)
    assert (found["a"].macs, found["a"].bytes) == (4 * (3 + 6), 4 * (3 + 1 + 6))
