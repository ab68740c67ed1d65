"""Shared weights: as many values as asked for, zeros kept, less error than centers of the weights alone, budgets."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.core.factored import Factored
from jaxcomp.core.paths import named_leaves
from jaxcomp.posttrain import share, share_layer
from tests.posttrain.test_round_priced import PARAMS, X, error, normal, residual
from tests.rewrite.channels.test_models import CASES, prepared
from tests.rewrite.lowrank.test_factors import conv

WEIGHTS = ("up", "down", "head")


def alone(k: int) -> Any:
    """The parameters at the centers of their own least squared error."""
    return {path: leaf if path == "bias" else share_layer.nearest(leaf, k).leaf for path, leaf in PARAMS.items()}


def test_layers_hold_k_values_and_err_less_than_the_centers_of_weights_alone(tmp_path: Any) -> None:
    for k, part in ((8, 0.75), (3, 0.9)):
        new = share(residual, PARAMS, [X[:48], X[48:]], k)
        for path in WEIGHTS:
            np.testing.assert_array_equal(np.unique(new.params[path]), new.centers[path])
            assert len(new.centers[path]) == k
        assert not np.asarray(new.params["down"])[np.asarray(PARAMS["down"]) == 0].any()
        assert 0 in new.centers["down"]
        assert error(new.params) < part * error(alone(k))
        jc.pack.save(tmp_path / "m.jcz", new.params)
        tables = [row for row in jc.pack.inspect(tmp_path / "m.jcz").tensors if row.kind.startswith("table")]
        assert {row.path for row in tables} == {*WEIGHTS}
        assert f"{k} centers" in str(new.report)
        assert {row.bias for row in new.report.rows if row.path == "up"} == {"bias"}


def test_centers_are_the_least_squares_of_their_places() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 60, 12))
    inputs = Factored.of(np.einsum("gri,grj->gij", x, x) / 60, 0.0)
    centers, place, kept = np.array([-1.0, 0.0, 0.4, 1.5]), rng.integers(0, 4, (2, 12, 5)), rng.random((2, 12, 5)) < 0.9
    aim = (1.2 * centers[place] + 0.1 * rng.standard_normal(place.shape)).astype(np.float32)
    price = 1 + rng.random((2, 1, 5))
    layer = share_layer._Layer(Any, (), aim, kept, inputs, price, share_layer.Settings(0.0, False, 1, None, False))
    values = np.where(kept, centers[place], 0).astype(np.float32)
    _, found = layer._refitted(values, centers)
    rows, target = [], []
    for group in range(2):
        root = np.linalg.cholesky(inputs.moment[group].astype(np.float64)).T
        for out in range(5):
            held = (np.arange(4) == place[group, :, out, None]) & kept[group, :, out, None]
            rows.append(root @ held[:, [0, 2, 3]] / np.sqrt(price[group, 0, out]))
            target.append(root @ aim[group, :, out] / np.sqrt(price[group, 0, out]))
    wanted = np.linalg.lstsq(np.concatenate(rows), np.concatenate(target), rcond=None)[0]
    np.testing.assert_allclose(found[[0, 2, 3]], wanted, rtol=1e-3)
    assert found[1] == 0


@pytest.mark.exhaustive
def test_budgets_hold_and_layers_choose_how_many_centers(tmp_path: Any) -> None:
    felt = jc.observe.fisher_diagonal(jc.observe.output_gradients(residual, PARAMS, [X]))
    plain = jc.pack.save(tmp_path / "m.jcz", alone(6))
    new = share(residual, PARAMS, [X], 8, file_bytes=plain, fisher=felt)
    assert 0.95 * plain < jc.pack.save(tmp_path / "m.jcz", new.params) <= plain
    assert error(new.params) < 0.7 * error(alone(6))
    assert len({len(centers) for centers in new.centers.values()}) > 1


def test_outputs_of_which_the_loss_feels_little_count_little() -> None:
    few = jnp.arange(48) < 24  # small weights whose results count
    params = PARAMS | {"up": jnp.where(few, 0.2, 1) * PARAMS["up"]}
    params["down"] = jnp.where(few[:, None], 10, 0.1) * normal(48, 24, seed=1)
    felt = jc.observe.fisher_diagonal(jc.observe.output_gradients(residual, params, [X]))
    found = [share(residual, params, [X], {"up": 4}, **how).params for how in ({}, {"fisher": felt})]
    plain, weighed = (np.sum(np.square(residual(new, X) - residual(params, X))) for new in found)
    assert weighed < 0.7 * plain


def test_rules_types_and_few_distinct_values() -> None:
    params = {path: leaf.astype(jnp.bfloat16) for path, leaf in PARAMS.items()} | {"head": jnp.ones((24, 8))}
    new = share(residual, params, [X], [("up", 5), ("head", 4)])
    assert len(new.centers["up"]) == 5
    assert new.centers["head"].tolist() == [1.0]
    assert new.params["down"] is params["down"]
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, new.params, params))
    assert "down (not asked for)" in str(new.report)


def test_convolutions_share_over_groups() -> None:
    function = conv((1, 1), "SAME", feature_group_count=2)
    weight, x = normal(3, 3, 3, 4, seed=3), normal(12, 9, 8, 2) @ normal(2, 6, seed=1) + 0.1 * normal(12, 9, 8, 6)
    new = share(function, {"w": weight}, [x], 6)
    assert len(np.unique(new.params["w"])) == 6
    wanted = function({"w": weight}, x)
    plain = share_layer.nearest(weight, 6).leaf
    errors = [float(jnp.sum((function({"w": w}, x) - wanted) ** 2)) for w in (new.params["w"], plain)]
    assert errors[0] < errors[1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("samples", [1, 2, 3, 8, 20])
def test_few_samples_do_no_harm(samples: int) -> None:
    assert error(share(residual, PARAMS, [X[:samples]], 4).params) <= 1.02 * error(alone(4))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["mobile", "vit_fused", "optimized_lstm", "scanned_layers", "nnx_resnet_train"])
def test_every_model(name: str) -> None:
    apply_fn, params = prepared(CASES[name])
    new = share(apply_fn, params, [CASES[name].example], 4)
    assert jax.tree.structure(new.params) == jax.tree.structure(params)
    named = named_leaves(new.params)
    assert all(len(np.unique(named[path])) <= 4 for path in new.centers)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(apply_fn(new.params, CASES[name].example)))


def test_weights_of_fewer_numbers_than_centers_stay() -> None:
    new = share(residual, PARAMS, [X], {"head": 200, "up": 4})
    assert sorted(new.centers) == ["up"]
    assert (new.params["head"] == PARAMS["head"]).all()
    assert "200 centers for 192 weights" in str(new.report)


@pytest.mark.parametrize(("options", "said"), [
    ({"k": 0}, "k is a number of centers, from 1"),
    ({"k": [("up", 512)], "rate": 1.0}, "a file has tables of at most 256 values"),
    ({"rate": 0}, "rate must be a number above 0"),
    ({"file_bytes": -1}, "file_bytes must be a whole number"),
    ({"params": PARAMS | {"up": PARAMS["up"] * jnp.nan}}, "'?up"),
])  # fmt: skip
def test_errors(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        share(residual, **{"params": PARAMS, "batches": [X], "k": 4, **options})
    with pytest.raises(RuleError):
        share(residual, PARAMS, [X], [("none", 4)])
