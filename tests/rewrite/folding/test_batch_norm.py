"""Folded functions compute what the unfolded ones did, without the norms' parameters; what is not folded is named."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves, without
from jaxcomp.rewrite import densify, factorize, fold_batch_norm, mask, shrink
from jaxcomp.trace import groups
from tests.rewrite import models
from tests.rewrite.lowrank.test_factors import conv, normal
from tests.rewrite.parity import TOLERANCE, distance, quick, randomize

IMAGE = normal(2, 6, 5, 4, seed=0)
X = normal(4, 6, seed=0)


def norm(p: Any, y: jax.Array) -> jax.Array:
    """Batch norm at rest, over the last axis."""
    return (y - p["mean"]) * lax.rsqrt(p["var"] + 1e-3) * p["scale"] + p["bias"]


def with_norm(weight: tuple[int, ...], features: int, **more: tuple[int, ...]) -> Any:
    vectors = dict.fromkeys(("mean", "var", "scale", "bias"), (features,))
    return randomize(jax.tree.map(jnp.ones, {"w": weight, **vectors, **more}, is_leaf=lambda s: isinstance(s, tuple)))


class Case(NamedTuple):
    """A function, its parameters, its input, and the paths of the parameters that are left."""

    function: Callable[..., Any]
    params: Any
    x: jax.Array
    left: set[str]


def dense(p: Any, x: jax.Array) -> jax.Array:
    return norm(p, x @ p["w"])


def scanned(p: Any, x: jax.Array) -> jax.Array:
    @jax.checkpoint
    def layer(h: jax.Array, own: Any) -> tuple[jax.Array, jax.Array]:
        h = h + jnp.tanh(norm(own, h @ own["w"]))
        return h, h.sum()

    return jax.tree.leaves(lax.scan(layer, x, p))


def moved(p: Any, x: jax.Array) -> jax.Array:
    y = conv((1, 1), "SAME")(p, x).transpose(0, 3, 1, 2).reshape(len(x), 5, -1)
    return y.astype(jnp.float16) * p["scale"].astype(jnp.float16)[:, None]


STACKED = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(randomize(with_norm((6, 6), 6), seed) for seed in range(3)))
NHWC, CHNW = ("NHWC", "HWIO", "NHWC"), ("CHNW", "OHIW", "WNCH")

FOLDED = {
    "dense": Case(dense, with_norm((6, 5), 5), X, {"w", "bias"}),
    "transposed": Case(lambda p, x: norm(p, x @ p["w"].T), with_norm((5, 6), 5), X, {"w", "bias"}),
    "weight on the left": Case(
        lambda p, x: (p["w"] @ x.T) * p["scale"][:, None] + p["bias"][:, None], with_norm((5, 6), 5), X, {"w", "bias"}
    ),
    "several features": Case(
        lambda p, x: (jnp.einsum("bi,iho->bho", x, p["w"]) - p["mean"]) / p["s"][:, None],
        with_norm((6, 2, 5), 5, s=(2,)), X, {"w", "mean"},
    ),
    "batched": Case(
        lambda p, x: jnp.einsum("bhi,hio->bho", x, p["w"]) * p["s"] + p["scale"],
        with_norm((3, 2, 5), 5, s=(3, 5)), X.reshape(4, 3, 2), {"w", "s"},
    ),
    "convolution": Case(
        lambda p, x: norm(p, conv((1, 2), "SAME")(p, x)), with_norm((3, 2, 4, 5), 5), IMAGE, {"w", "bias"}
    ),
    "with a bias of its own": Case(
        lambda p, x: norm(p, conv((1, 2), "SAME")(p, x) + p["b"]),
        with_norm((3, 2, 4, 5), 5, b=(5,)), IMAGE, {"w", "bias"},
    ),
    "grouped": Case(
        lambda p, x: norm(p, conv((1, 1), "SAME", feature_group_count=2)(p, x)), with_norm((3, 3, 2, 6), 6), IMAGE,
        {"w", "bias"},
    ),
    "depthwise": Case(
        lambda p, x: norm(p, conv((1, 1), "SAME", feature_group_count=4)(p, x)), with_norm((3, 3, 1, 8), 8), IMAGE,
        {"w", "bias"},
    ),
    "transposed convolution": Case(
        lambda p, x: norm(p, lax.conv_transpose(x, p["w"], (2, 2), "SAME")),
        with_norm((3, 3, 4, 5), 5), IMAGE, {"w", "bias"},
    ),
    "other layouts": Case(
        lambda p, x: conv((1, 1), "SAME", dimension_numbers=CHNW)(p, x) * p["scale"][:, None] - p["bias"][:, None],
        with_norm((5, 3, 6, 2), 5), normal(6, 7, 2, 5), {"w", "bias"},
    ),
    "moved and cast between": Case(moved, with_norm((3, 3, 4, 5), 5), IMAGE, {"w"}),
    "layer scale": Case(lambda p, x: x + (x @ p["w"] + p["bias"]) * p["scale"], with_norm((6, 6), 6), X, {"w", "bias"}),
    "subtracted from, negated, divided": Case(
        lambda p, x: -(p["mean"] - x @ p["w"]) / p["var"] * 3, with_norm((6, 5), 5), X, {"w", "mean"}
    ),
    "scalars": Case(
        lambda p, x: (x @ p["w"] + p["s"]) * p["t"], with_norm((6, 5), 5, s=(), t=(1,)), X, {"w", "s"}
    ),
    "before a matmul": Case(lambda p, x: norm(p, x) @ p["w"], with_norm((6, 5), 6), X, {"w", "bias"}),
    "before several summed": Case(
        lambda p, x: jnp.einsum("bhi,hio->bo", (x + p["s"][:, None]) * p["scale"], p["w"]) + p["out"],
        with_norm((3, 2, 5), 2, s=(3,), out=(5,)), X.reshape(4, 3, 2), {"w", "out"},
    ),
    "before a 1 x 1": Case(
        lambda p, x: conv((2, 2), "VALID")(p, norm(p, x)), with_norm((1, 1, 4, 5), 4), IMAGE, {"w", "bias"}
    ),
    "before a window": Case(
        lambda p, x: conv((1, 1), "VALID")(p, norm(p, x)), with_norm((2, 3, 4, 5), 4), IMAGE, {"w", "bias"}
    ),
    "a scale before a padded window": Case(
        lambda p, x: conv((1, 1), "SAME")(p, x * p["scale"]), with_norm((3, 3, 4, 5), 4), IMAGE, {"w"}
    ),
    "before and after": Case(
        lambda p, x: norm(p, (x - p["s"]) @ p["w"]), with_norm((6, 5), 5, s=(6,)), X, {"w", "bias"}
    ),
    "stacked in a scan": Case(scanned, STACKED, X, {"w", "bias"}),
    "stacked once in a scan": Case(scanned, jax.tree.map(lambda leaf: leaf[:1], STACKED), X, {"w", "bias"}),
    "in remat": Case(lambda p, x: jax.checkpoint(dense)(p, x), with_norm((6, 5), 5), X, {"w", "bias"}),
    "twice in turn": Case(
        lambda p, x: jnp.tanh(norm(p[0], norm(p[1], x @ p[0]["w"]) @ p[1]["w"])),
        [with_norm((6, 6), 6), with_norm((6, 6), 6)], X, {"0/w", "0/bias", "1/w", "1/bias"},
    ),
}  # fmt: skip


def read_by(case: Case) -> set[str]:
    """The parameters that a function reads at all."""
    jaxpr = jax.make_jaxpr(case.function)(case.params, case.x).jaxpr
    used = {id(var) for eqn in jaxpr.eqns for var in eqn.invars}
    return {path for path, var in zip(named_leaves(case.params), jaxpr.invars, strict=False) if id(var) in used}


@pytest.mark.parametrize("name", FOLDED)
def test_folded(name: str) -> None:
    case = FOLDED[name]
    new, folded = fold_batch_norm(case.function, case.params, case.x)
    assert set(named_leaves(folded)) - (set(named_leaves(case.params)) - read_by(case)) == case.left
    tolerance = 2e-3 if "cast" in name else 2e-6
    more = jnp.concatenate([case.x, case.x + 1], axis=2 if "layouts" in name else 0)
    for x in (case.x, more):
        assert distance(quick(case.function)(case.params, x), quick(new)(folded, x)) <= tolerance
    assert not [row for row in new.report.rows if row.skipped]


def test_the_folded_values_are_those_of_the_formula() -> None:
    params = FOLDED["dense"].params
    _, folded = fold_batch_norm(dense, params, X)
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    scale = p["scale"] / np.sqrt(p["var"] + 1e-3)
    np.testing.assert_allclose(folded["w"], p["w"] * scale, rtol=1e-6)
    np.testing.assert_allclose(folded["bias"], p["bias"] - p["mean"] * scale, rtol=1e-5, atol=1e-6)


def twice(p: Any, x: jax.Array) -> Any:
    y = x @ p["w"]
    return y * p["scale"], y


LEFT: dict[str, tuple[Callable[..., Any], str]] = {
    "read twice": (twice, "read 2 times"),
    "training": (lambda p, x: (y := x @ p["w"]) - y.mean(0) * p["scale"], "read 2 times"),
    "computed from inputs": (lambda p, x: (x @ p["w"]) * (x.sum() * p["scale"]), "computed from the inputs"),
    "other axes": (lambda p, x: (x @ p["w"]) * p["s"][:, None] + p["bias"], "varies along other axes"),
    "not affine": (lambda p, x: jnp.tanh(x @ p["w"]) * p["scale"], "tanh reads its result"),
    "divided by": (lambda p, x: p["scale"] / (x @ p["w"]), "divided by"),
    "kernel read twice": (lambda p, x: ((x @ p["w"]) * p["scale"], x @ p["w"]), "2 sites read its kernel"),
    "kernel not itself": (lambda p, x: (x @ jnp.tanh(p["w"])) * p["scale"], "of its kernel: read by tanh"),
    "in a branch": (
        lambda p, x: lax.cond(x.sum() > 0, lambda: (x @ p["w"]) * p["scale"], lambda: x[:, :5]), "inside a branch"
    ),
    "kernel shared by a scan": (
        lambda p, x: lax.scan(lambda c, s: (jnp.pad(c @ p["w"] * s, ((0, 0), (0, 1))), None), x, p["stack"])[0],
        "the steps of a scan share its kernel",
    ),
    "no free parameter": (
        lambda p, x: ((x @ p["w"] + p["bias"]) * p["scale"], p["bias"].sum() + p["scale"].sum()),
        "no parameter becomes free",
    ),
    "a constant alone": (lambda p, x: jnp.tanh((x @ p["w"]) / 3), "tanh reads"),
    "its own bias alone": (lambda p, x: jnp.tanh(x @ p["w"] + p["bias"]), "tanh reads"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_folded_is_named_and_right(name: str) -> None:
    function, reason = LEFT[name]
    params = with_norm((6, 5), 5, s=(4,), stack=(3, 5))
    new, same = fold_batch_norm(function, params, X)
    (row,) = new.report.rows
    assert row.path == "w"
    assert reason in row.skipped
    assert row.skipped in str(new.report)
    assert same is params or set(same) == set(params)
    assert distance(jax.jit(function)(params, X), new(same, X)) == 0


def test_a_shift_before_a_padded_window_stays() -> None:
    function = lambda p, x: conv((1, 1), "SAME")(p, norm(p, x))  # noqa: E731
    params = with_norm((3, 3, 4, 5), 4)
    new, folded = fold_batch_norm(function, params, IMAGE)
    assert set(folded) == set(params)
    assert distance(function(params, IMAGE), new(folded, IMAGE)) <= TOLERANCE


def test_constants_that_change_with_the_shape_are_refused() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return norm(p, (x @ p["w"]) / len(x))

    params = FOLDED["dense"].params
    new, folded = fold_batch_norm(function, params, X)
    assert distance(function(params, X), new(folded, X)) <= TOLERANCE
    with pytest.raises(
        ArgumentError, match=r"other scales and shifts, or weights, can be folded .* call fold_batch_norm"
    ):
        new(folded, X[:2])
    # A mean's divisor, which no parameter follows, is left in the function.
    pooled = lambda p, x: x.mean(1) @ p["w"]  # noqa: E731
    new, folded = fold_batch_norm(pooled, params, normal(2, 3, 6))
    assert distance(pooled(params, normal(2, 5, 6)), new(folded, normal(2, 5, 6))) == 0


# Containers, and other rewrites.


@pytest.mark.parametrize("container", [dict, FrozenDict])
def test_mappings_lose_keys_and_empty_collections(container: Any) -> None:
    own, half = FOLDED["dense"].params, jnp.full(5, 0.5)
    norms = {"norm": {"bias": half, "scale": half}}, {"norm": {"mean": half, "var": half}}
    params = container({"params": {"w": own["w"], **norms[0]}, "stats": norms[1], "empty": {}})

    def function(v: Any, x: jax.Array) -> jax.Array:
        return norm({**v["params"]["norm"], **v["stats"]["norm"]}, x @ v["params"]["w"])

    new, folded = fold_batch_norm(function, params, X)
    assert isinstance(folded, container)
    assert set(named_leaves(folded)) == {"params/w", "params/norm/bias"}
    assert set(folded) == {"params", "empty"}
    assert distance(function(params, X), new(folded, X)) <= TOLERANCE


def test_sequences_hold_none_in_place_of_what_is_gone() -> None:
    params = [FOLDED["dense"].params["w"], (jnp.full(5, 2.0), jnp.full(5, 3.0))]
    new, folded = fold_batch_norm(lambda p, x: (x @ p[0]) * p[1][0] + p[1][1], params, X)
    assert folded[1][0] is None
    assert new(folded, X).shape == (4, 5)
    assert without({"a": [1.0]}, set()) == {"a": [1.0]}


class Small(nnx.Module):
    """Convolution, norm, dense."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(4, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs, use_running_average=True)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def test_nnx_states() -> None:
    graph, state = nnx.split(Small(nnx.Rngs(0)))
    state = randomize(state)

    def function(state: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x)

    new, folded = fold_batch_norm(function, state, IMAGE)
    assert isinstance(folded, nnx.State)
    assert set(named_leaves(folded)) == {"conv/kernel", "norm/bias", "head/kernel", "head/bias"}
    assert distance(quick(function)(state, IMAGE), quick(new)(folded, IMAGE)) <= TOLERANCE
    new, factors = factorize(function, state, IMAGE, rank=1.0, cheaper=False)
    assert sum(path.endswith(("/in", "/core", "/out")) for path in named_leaves(factors)) == 5
    assert distance(quick(function)(state, IMAGE), quick(new)(factors, IMAGE)) <= TOLERANCE


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    """A convolutional network with batch norm, and its variables."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for width in (8, 6):
                x = nn.Conv(width, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            return nn.Dense(3)(x.mean((1, 2)))

    return Net().apply, randomize(jax.eval_shape(Net().init, jax.random.key(0), IMAGE))


KEEP = {"params/Conv_0/kernel": np.arange(8) < 6, "params/Conv_1/kernel": np.arange(6) > 1}


@pytest.mark.parametrize(
    "order", ["fold shrink factorize", "shrink fold factorize", "factorize shrink fold", "shrink factorize fold"]
)
def test_rewrites_compose(order: str, network: Any) -> None:
    function, params = network
    expected = quick(function)(mask(groups(function, params, IMAGE), params, KEEP), IMAGE)
    step = {
        "fold": lambda f, p: fold_batch_norm(f, p, IMAGE),
        "shrink": lambda f, p: shrink(f, p, IMAGE, keep=_keep(p)),
        "factorize": lambda f, p: factorize(f, p, IMAGE, rank=1.0, cheaper=False),
    }
    before = sum(leaf.size for leaf in jax.tree.leaves(params))
    for name in order.split():
        function, params = step[name](function, params)
    assert distance(expected, quick(function)(params, IMAGE)) <= TOLERANCE
    assert "batch_stats" not in params
    assert sum(leaf.size for leaf in jax.tree.leaves(densify(params))) < before


def _keep(params: Any) -> Any:
    """``KEEP`` for kernels that may be in parts."""
    named = named_leaves(params)
    return {f"{path}/out:1" if f"{path}/out" in named else f"{path}:3": kept for path, kept in KEEP.items()}


def test_gradients(network: Any) -> None:
    """Of what is left as it was, the same; of a kernel, times the scale that it took in."""
    function, params = network
    new, folded = fold_batch_norm(function, params, IMAGE)

    @quick
    def slopes(params: Any, folded: Any) -> Any:
        return [jax.grad(lambda p, f=f: (f(p, IMAGE) ** 2).sum())(p) for f, p in ((function, params), (new, folded))]

    old, got = map(named_leaves, slopes(params, folded))
    kernels = [path for path in got if path.endswith("kernel") and "Conv" in path]
    for path in got.keys() - kernels:
        assert distance(old[path], got[path]) <= 2e-5
    for path in kernels:
        scale = named_leaves(folded)[path] / named_leaves(params)[path]
        assert distance(old[path], got[path] * scale) <= 2e-5


def test_a_function_that_holds_its_parameters_is_refused(network: Any) -> None:
    function, params = network
    with pytest.raises(ArgumentError, match="pass them instead"):
        fold_batch_norm(lambda p, x: function(params, x), {"a": jnp.ones(2)}, IMAGE)


def test_convnext_and_training() -> None:
    block = models.ConvNeXt()
    variables = randomize(jax.eval_shape(block.init, jax.random.key(0), normal(1, 8, 8, 3)))
    _, folded = fold_batch_norm(block.apply, variables, normal(1, 8, 8, 3))
    assert "gamma" not in folded["params"]
    net = models.BasicResNet(train=True)
    variables = randomize(jax.eval_shape(net.init, jax.random.key(0), normal(1, 8, 8, 3)))
    new, same = fold_batch_norm(lambda v, x: net.apply(v, x, mutable=["batch_stats"]), variables, normal(1, 8, 8, 3))
    assert jax.tree.structure(same) == jax.tree.structure(variables)
    assert sum("reduce_sum" in row.skipped for row in new.report.rows) == 6
