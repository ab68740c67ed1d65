"""Recalibration against means in NumPy, whatever the momentum and the library of the model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError


def expected(batches: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    means = [batch.astype(np.float64).mean(axis=(0, 1)) for batch in batches]
    variances = [batch.astype(np.float64).var(axis=(0, 1)) for batch in batches]
    return np.mean(means, axis=0), np.mean(variances, axis=0)


@pytest.fixture
def batches(rng: np.random.Generator) -> list[np.ndarray]:
    scale = np.array([1.0, 30.0, 0.01])
    return [(rng.normal(size=(16, 5, 3)) * scale + 3 * scale).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_linen_batch_norm(batches: list[np.ndarray], momentum: float) -> None:
    model = nn.BatchNorm(use_running_average=False, momentum=momentum)
    variables = model.init(jax.random.key(0), batches[0])
    params = {"params": variables["params"]}
    fresh = jc.posttrain.recalibrate(
        lambda stats, x: model.apply({**params, "batch_stats": stats}, x, mutable="batch_stats")[1]["batch_stats"],
        variables["batch_stats"],
        batches,
    )
    mean, var = expected(batches)
    np.testing.assert_allclose(fresh["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(fresh["var"], var, rtol=1e-3)


def test_nnx_batch_norm_beside_counters_and_keys(batches: list[np.ndarray]) -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    graph, params, stats = nnx.split(Net(), nnx.Param, ...)

    def update(stats, x):
        net = nnx.merge(graph, params, stats, copy=True)
        net.dropout(net.norm(x))
        return nnx.split(net, nnx.Param, ...)[2]

    fresh = jc.posttrain.recalibrate(update, stats, batches)
    assert jax.tree.structure(fresh) == jax.tree.structure(stats)
    mean, var = expected(batches)
    np.testing.assert_allclose(fresh["norm"]["mean"].get_value(), mean, rtol=1e-4)
    np.testing.assert_allclose(fresh["norm"]["var"].get_value(), var, rtol=1e-3)
    count = lambda tree: tree["dropout"]["rngs"]["count"].get_value()  # noqa: E731
    assert count(fresh) == count(stats)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("strict", [False, True])
def test_averages_in_half_precision(dtype: jnp.dtype, strict: bool) -> None:
    first, second = jnp.linspace(-2.0, 1.0, 40).reshape(8, 5), jnp.linspace(3.0, 0.5, 40).reshape(8, 5)

    def move(stats, x):
        if strict and stats["mean"].dtype != dtype:
            raise TypeError("the model's own type, or none")
        return {"mean": 0.75 * stats["mean"] + 0.25 * x.mean(0).astype(dtype), "count": stats["count"] + 1}

    fresh = jc.posttrain.recalibrate(move, {"mean": jnp.full(5, 9, dtype), "count": 0}, [first, second])
    assert fresh["mean"].dtype == dtype
    np.testing.assert_allclose(np.float32(fresh["mean"]), (first.mean(0) + second.mean(0)) / 2, rtol=0.02, atol=0.01)


def test_what_does_not_move_stays(batches: list[np.ndarray]) -> None:
    stats = {"mean": jnp.array(7.0), "fixed": jnp.array(5.0)}
    update = lambda stats, x: {"mean": 0.5 * stats["mean"] + 0.5 * x.mean(), "fixed": stats["fixed"]}  # noqa: E731
    fresh = jc.posttrain.recalibrate(update, stats, batches)
    assert fresh["fixed"] == 5.0
    np.testing.assert_allclose(fresh["mean"], np.mean([x.mean(dtype=np.float64) for x in batches]), rtol=1e-5)


@pytest.mark.parametrize(
    "update",
    [
        lambda stats, x: {"mean": stats["mean"] ** 2 + x.mean()},
        lambda stats, x: {"mean": jnp.maximum(stats["mean"], x.max())},
        lambda stats, x: {"mean": stats["mean"] + x.mean()},
    ],
)
def test_what_is_no_moving_average_is_refused(batches: list[np.ndarray], update) -> None:
    with pytest.raises(ArgumentError, match="mean: is no moving average"):
        jc.posttrain.recalibrate(update, {"mean": jnp.array(1.0)}, batches)


def test_no_batches_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one batch"):
        jc.posttrain.recalibrate(lambda stats, x: stats, {"mean": jnp.array(1.0)}, [])
