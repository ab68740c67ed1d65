"""One test per row of the table of primitives: what can be cut is found, and then computes what it does masked."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.trace import groups
from tests.rewrite.parity import TOLERANCE, randomize, worst

pytestmark = pytest.mark.exhaustive
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
PARAMS = randomize({"a": jnp.ones((3, 8)), "b": jnp.ones(8), "c": jnp.ones((8, 2))})
MANY = jnp.arange(1.0, 9.0)


class Row(NamedTuple):
    """A function of hidden channels ``h [4, 8]``; ``free`` are the groups that can be cut, with their sizes."""

    name: str
    body: Callable[..., Any]
    free: dict[str, int]
    gradients: bool = True


def _drop(h: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, h.shape), h, 0)


def _pool(h: jax.Array, start: float, function: Any, stride: int, padding: str) -> jax.Array:
    return lax.reduce_window(h, start, function, (2, 1), (stride, 1), padding)


def _write(h: jax.Array, into: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(into, h, (1, 0))


def _edge(h: jax.Array) -> jax.Array:
    return lax.pad(h, 0.0, ((0, 0, 0), (-2, 1, 0)))


def _read(h: jax.Array, p: Any) -> jax.Array:
    return h @ p["c"]


def _while(h: jax.Array, p: Any) -> jax.Array:
    def step(state: Any) -> Any:
        return state[0] + 1, jnp.sin(state[1]) + h

    return lax.while_loop(lambda state: state[0] < 3, step, (0, jnp.zeros_like(h)))[1] @ p["c"]


def _scan(h: jax.Array, p: Any) -> jax.Array:
    def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.tanh(state + x * p["b"]), state * 2

    last, every = lax.scan(step, jnp.zeros(8), h)
    return (last + every) @ p["c"]


@jax.custom_jvp
def _clipped(h: jax.Array) -> jax.Array:
    return jnp.clip(h, -1, 1)


_clipped.defjvp(lambda p, t: (_clipped(*p), t[0] * 0.5))


def _attend(h: jax.Array, p: Any) -> jax.Array:
    return jnp.einsum("ic,jc->ij", h, h * 2) @ (h @ p["c"])


FREE = {"a": 8}
ROWS = [
    Row("elementwise", lambda h, p: _read(jnp.tanh(h) * jnp.exp(h) + h**3 - jnp.abs(h), p), FREE),
    Row("elementwise_size_1", lambda h, p: _read(h * h.sum(1, keepdims=True), p), FREE),
    Row("elementwise_scalar", lambda h, p: _read(2.0 * h / 3.0, p), FREE),
    Row("elementwise_array_constant", lambda h, p: _read(h * MANY, p), FREE),
    Row("select_n", lambda h, p: _read(jnp.where(h > 0, h, 0.1 * h), p), FREE),
    Row("select_n_constant_mask", lambda h, p: _read(jnp.where(MANY > 4, h, 0.0), p), FREE),
    Row("clamp", lambda h, p: _read(jnp.clip(h, -0.5, 0.5), p), FREE),
    Row("cast", lambda h, p: _read(h.astype(jnp.bfloat16).astype(jnp.float32), p), FREE, False),
    Row("stop_gradient", lambda h, p: _read(lax.stop_gradient(h) * h, p), FREE),
    Row("optimization_barrier", lambda h, p: _read(lax.optimization_barrier((h, h + h))[1], p), FREE, False),
    Row("random_source", lambda h, p: _read(_drop(h), p), FREE),
    Row("dot_contracted", _read, FREE),
    Row("dot_batch", lambda h, p: jnp.einsum("bc,cd,bc->cbd", h, p["c"], h).sum(0), FREE),
    Row("dot_activations", _attend, FREE),
    Row("reduce_sum", lambda h, p: _read(h, p) + h.sum(1, keepdims=True), FREE),
    Row("reduce_mean_keeps_its_count", lambda h, p: _read(h, p) * jnp.mean(h * h, 1, keepdims=True), FREE),
    Row("reduce_sum_of_others", lambda h, p: _read(h + h.sum(0), p), FREE),
    Row("reduce_max_of_others", lambda h, p: _read(h + h.max(0), p), FREE),
    Row("reduce_max", lambda h, p: _read(h, p) + h.max(1, keepdims=True), {}),
    Row("reduce_prod", lambda h, p: _read(h, p) + h.prod(1, keepdims=True), {}),
    Row("argmax", lambda h, p: _read(h, p) + h.argmax(1)[:, None], {}),
    Row("argmax_of_others", lambda h, p: _read(h * h.argmax(0), p), FREE, False),
    Row("cumsum", lambda h, p: _read(jnp.cumsum(h, 1), p), {}),
    Row("cumsum_of_others", lambda h, p: _read(jnp.cumsum(h, 0), p), FREE),
    Row("sort", lambda h, p: _read(jnp.sort(h, 1), p), {}),
    Row("sort_of_others", lambda h, p: _read(h * jnp.sort(h, 0), p), FREE, False),
    Row("softmax", lambda h, p: _read(jax.nn.softmax(h), p), {}),
    Row("reduce_window", lambda h, p: _read(_pool(h, 0.0, lax.add, 1, "SAME"), p), FREE),
    Row("reduce_window_max", lambda h, p: _read(_pool(h, -jnp.inf, lax.max, 2, "VALID"), p), FREE),
    Row("broadcast_in_dim", lambda h, p: _read(h + jnp.broadcast_to(p["b"][:, None], (8, 4)).T, p), FREE),
    Row("reshape_merge", lambda h, p: _read(h.reshape(2, 2, 8), p).reshape(4, 2), FREE),
    Row("reshape_flatten", lambda h, p: h.reshape(2, 16) @ jnp.concatenate([p["c"], p["c"]]), FREE),
    Row("reshape_split", lambda h, p: (h.reshape(4, 4, 2).sum(2) ** 2).sum(1) + _read(h, p).T, {"a": 4, "a#2": 2}),
    Row("reshape_split_other_axis", lambda h, p: (h.reshape(4, 4, 2).max(1) ** 2).sum(1) + _read(h, p).T, {"a": 2}),
    Row("transpose", lambda h, p: (p["c"].T @ h.T), FREE),
    Row("squeeze", lambda h, p: _read(h[:, None, :].squeeze(1), p), FREE),
    Row("rev", lambda h, p: _read(h[:, ::-1] + h, p), {"a": 4}),
    Row("tile", lambda h, p: jnp.tile(h, (1, 2)) @ jnp.concatenate([p["c"], p["c"] * 2]), FREE),
    Row("repeat", lambda h, p: jnp.repeat(h, 2, axis=1) @ jnp.repeat(p["c"], 2, axis=0), FREE),
    Row("concatenate", lambda h, p: jnp.concatenate([h, jnp.sin(h)], 1) @ jnp.concatenate([p["c"], p["c"]]), FREE),
    Row("concatenate_of_others", lambda h, p: _read(jnp.concatenate([h, h * 2, jnp.zeros((1, 8))]), p), FREE),
    Row("concatenate_with_whole", lambda h, p: jnp.append(h, X[:, :2], 1) @ jnp.pad(p["c"], ((0, 2), (0, 0))), FREE),
    Row("slice", lambda h, p: h[:, 2:7] @ p["c"][2:7] + _read(h, p), FREE),
    Row("slice_strided", lambda h, p: h[:, ::2] @ p["c"][::2] + h[:, 1::2] @ p["c"][1::2], FREE),
    Row("slice_of_one", lambda h, p: _read(h, p) + h[:, 3:4], {"a": 7}),
    Row("split", lambda h, p: jnp.split(h, 2, 1)[0] * jnp.split(h, 2, 1)[1] @ p["c"][:4] + _read(h, p), {"a": 4}),
    Row("glu", lambda h, p: jax.nn.glu(h) @ p["c"][:4] + 0 * _read(h, p), {"a": 4}),
    Row("pad", lambda h, p: jnp.pad(h, ((0, 0), (2, 3))) @ jnp.pad(p["c"], ((2, 3), (0, 0))), FREE),
    Row("pad_negative", lambda h, p: _edge(h) @ jnp.roll(p["c"], -2, 0)[:7] + _read(h, p), FREE),
    Row("pad_others", lambda h, p: _read(jnp.pad(h, ((1, 2), (0, 0))), p), FREE),
    Row("pad_interior", lambda h, p: lax.pad(h, 0.0, ((0, 0, 0), (0, 0, 1))) @ jnp.ones((15, 2)) + _read(h, p), {}),
    Row("stack", lambda h, p: _read(jnp.stack([h, h * 2]).sum(0), p), FREE),
    Row("unstack_of_others", lambda h, p: _read(sum(jnp.tanh(row) for row in h), p), FREE),
    Row("gather_of_others", lambda h, p: _read(h[jnp.array([3, 1, 1])], p), FREE),
    Row("gather", lambda h, p: _read(h[:, jnp.array([3, 1, 1, 2, 4, 5, 7, 0])], p), {}),
    Row("dynamic_slice_of_others", lambda h, p: _read(lax.dynamic_slice(h, (1, 0), (2, 8)), p), FREE),
    Row("dynamic_slice", lambda h, p: lax.dynamic_slice(h, (0, 1), (4, 4)) @ p["c"][:4] + _read(h, p), {}),
    Row("dynamic_update_slice", lambda h, p: _read(_write(h[:2] * 3, h), p), FREE),
    Row("dynamic_update_slice_into_zeros", lambda h, p: _read(_write(h, jnp.zeros((6, 8))), p), FREE),
    Row("scan", _scan, FREE),
    Row("while", _while, FREE, False),
    Row("cond", lambda h, p: _read(lax.cond(h.sum() > 0, lambda y: y * 2, lambda y: jnp.zeros_like(y), h), p), FREE),
    Row("remat", lambda h, p: _read(jax.checkpoint(lambda y: jnp.sin(y) * p["b"])(h), p), FREE),
    Row("custom_jvp", lambda h, p: _read(_clipped(h), p), FREE),
    Row("jit", lambda h, p: _read(jax.jit(jnp.tanh)(h) + jax.jit(jnp.tanh)(2 * h), p), FREE),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row) -> None:
    def function(p: Any, x: jax.Array) -> Any:
        return row.body(x @ p["a"] + p["b"], p)

    found = groups(function, PARAMS, X)
    assert {group.name: group.size for group in found} == row.free
    if row.free:
        assert worst(function, PARAMS, X, gradients=row.gradients) <= TOLERANCE


IMAGE = jnp.asarray(RNG.standard_normal((2, 5, 5, 3)), jnp.float32)
NHWC = ("NHWC", "HWIO", "NHWC")


def _conv(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=groups)


@pytest.mark.parametrize(
    ("kernel", "count", "width", "channels"),
    [((3, 3, 8, 6), 1, 6, 8), ((3, 3, 1, 8), 8, 8, 8), ((3, 3, 1, 16), 8, 16, 8), ((3, 3, 2, 12), 4, 12, 4)],
    ids=["conv", "depthwise", "depthwise_multiplier", "grouped"],
)
@pytest.mark.parametrize("constant", [False, True])
def test_convolution(kernel: tuple[int, ...], count: int, width: int, channels: int, constant: bool) -> None:
    shapes = {"a": (1, 1, 3, 8), "k": kernel, "c": (1, 1, width, 2)}
    params = randomize({name: jnp.ones(shape) for name, shape in shapes.items()})
    held = {"k": params.pop("k")} if constant else {}

    def function(p: Any, x: jax.Array) -> jax.Array:
        return _conv(jnp.tanh(_conv(jnp.tanh(_conv(x, p["a"])), {**p, **held}["k"], count)), p["c"])

    found = groups(function, params, IMAGE)
    assert found["a"].size == channels
    assert len(found) == (2 if count == 1 and not constant else 1)
    assert worst(function, params, IMAGE) <= TOLERANCE


def _custom_vjp(h: jax.Array) -> jax.Array:
    f = jax.custom_vjp(lambda y: y * 2)
    f.defvjp(lambda y: (y * 2, None), lambda _, g: (g * 2,))
    return f(h)


OPAQUE = {
    "custom_vjp_call": _custom_vjp,
    "fft": lambda h: jnp.fft.fft(h).real,
    "top_k": lambda h: lax.top_k(h, 8)[0],
    "scatter": lambda h: jnp.zeros((4, 8)).at[jnp.array([0, 2, 1, 3])].set(h),
    "cholesky": lambda h: h * jnp.linalg.cholesky(h @ h.T + 100 * jnp.eye(4)).sum(),
    "pure_callback": lambda h: jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(h.shape, h.dtype), h),
}


@pytest.mark.parametrize("primitive", OPAQUE)
def test_what_has_no_rule_freezes_its_group_and_is_named(primitive: str) -> None:
    params = {**PARAMS, "d": jnp.ones((2, 8)), "e": jnp.ones((8, 2))}

    def function(p: Any, x: jax.Array) -> Any:
        y = OPAQUE[primitive](x @ p["a"] + p["b"]) @ p["c"]
        return jnp.tanh(y @ p["d"]) @ p["e"]

    found = groups(function, params, X)
    if primitive == "cholesky":
        assert found["a"].size == 8  # the product with itself sums the channels: only its rows meet the primitive
    else:
        (stuck,) = (g for g in found.frozen if any((m.path, m.axis) == ("a", 1) for m in g.members))
        assert stuck.frozen is not None
        assert stuck.frozen.primitive == primitive
        assert "test_primitives.py" in stuck.frozen.place
        assert primitive in str(found)
    assert found["d"].size == 8
    assert worst(function, params, X, gradients=False) <= TOLERANCE
