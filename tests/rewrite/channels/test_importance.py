"""Scores against slow loops in float64, and the laws that every score keeps."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves, path_string
from jaxcomp.observe import activations, fisher_diagonal, hessian_diagonal, output_gradients
from jaxcomp.rewrite import importance
from jaxcomp.trace import Group, Groups, Member, groups
from tests.rewrite import models
from tests.rewrite.parity import randomize

IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
MATRICES = ("l1", "l2", "lamp", "fpgm", "norm_scale")
SLOPES = ("taylor", "taylor_squared", "taylor_abs")
WEIGHTS = (*MATRICES, *SLOPES, "hessian")
OBSERVED = ("activation", "apoz")
MODELS = {"cnn": models.CNN(), "resnet": models.BasicResNet(), "vit": models.ViT(), "vit_fused": models.ViT(fused=True)}


class Subject(NamedTuple):
    """A model with its groups, and random trees beside its variables."""

    found: Groups
    params: Any
    grads: Any
    curvature: Any


@functools.cache
def made(name: str) -> Subject:
    model = MODELS[name]
    variables = randomize(jax.eval_shape(model.init, jax.random.key(0), IMAGE))
    found = groups(model.apply, variables, IMAGE)
    assert len(found)
    grads, curvature = ({"params": randomize(variables["params"], seed)} for seed in (1, 2))
    return Subject(found, variables, grads, curvature)


@pytest.fixture(params=MODELS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return made(request.param)


def options(subject: Subject, score: str) -> dict[str, Any]:
    """What a score needs beside the parameters."""
    if score in OBSERVED:
        return {"batches": [(IMAGE,), (IMAGE[::-1] + 1,)]}
    return (
        {"grads": subject.grads} if score in SLOPES else {"curvature": subject.curvature} if score == "hessian" else {}
    )


def scored(subject: Subject, score: str, **more: Any) -> dict[str, np.ndarray]:
    return importance(subject.found, subject.params, score, **options(subject, score), **more)


def own_entries(member: Member, tree: dict[str, Any], channel: int) -> np.ndarray:
    leaf = np.asarray(tree[member.path], np.float64)
    return np.concatenate(
        [np.take(leaf, i, member.axis).ravel() for i in sorted(set(member.indices[channel].tolist()))]
    )


def votes(member: Member, group: Group, score: str) -> bool:
    if score in ("l1", "l2", "lamp", "fpgm"):
        return member.path.endswith("kernel")
    if score == "norm_scale":
        scales = any(m.path.endswith("scale") for m in group.members)
        return member.path.endswith("scale" if scales else "kernel")
    return member.path.startswith("params/")


def slow(subject: Subject, group: Group, score: str, combine: str) -> np.ndarray:
    """The score by its formula, a channel and a member at a time."""
    trees = [named_leaves(tree) for tree in (subject.params, subject.grads, subject.curvature)]
    members = [m for m in group.members if votes(m, group, score)]

    def parts(channel: int, tree: dict[str, Any]) -> list[np.ndarray]:
        each = [own_entries(m, tree, channel) for m in members]
        return [np.concatenate(each)] if combine == "joint" else each

    scores = []
    for channel in range(group.size):
        w = parts(channel, trees[0])
        if score in (*SLOPES, "hessian"):
            other = parts(channel, trees[2 if score == "hessian" else 1])
        match score:
            case "l1" | "norm_scale":
                each = [float(sum(abs(x) for x in row)) for row in w]
            case "l2":
                each = [float(sum(x * x for x in row)) ** 0.5 for row in w]
            case "lamp":
                each = [float(sum(x * x for x in row)) for row in w]
            case "fpgm":
                all_rows = [parts(c, trees[0]) for c in range(group.size)]
                each = [sum(float(np.sum((row - rows[i]) ** 2)) ** 0.5 for rows in all_rows) for i, row in enumerate(w)]
            case "hessian":
                each = [max(0.0, float(np.sum(h * row * row) / 2)) for row, h in zip(w, other, strict=True)]
            case _:
                products = [row * g for row, g in zip(w, other, strict=True)]
                whole = [abs(float(sum(row))) for row in products]
                by_name = {"taylor": whole, "taylor_squared": [x * x for x in whole]}
                each = by_name.get(score) or [float(sum(abs(x) for x in row)) for row in products]
        reduce = {"mean": np.mean, "sum": np.sum, "max": np.max, "product": np.prod, "joint": np.sum}[combine]
        scores.append(reduce(each))
    return np.array(scores)


def slow_normal(scores: np.ndarray, how: str) -> np.ndarray:
    if how == "gaussian":
        return (scores - np.mean(scores)) / np.std(scores)
    if how == "lamp":
        return np.array([s / sum(t for t in scores if t >= s) for s in scores])
    return scores / {"mean": np.mean(scores), "max": np.max(scores), "none": 1.0}[how]


@pytest.mark.parametrize("score", WEIGHTS)
def test_scores_are_their_formulas(subject: Subject, score: str) -> None:
    unit = {"lamp": "lamp"} | dict.fromkeys((*SLOPES, "hessian"), "none")
    for group, own in zip(subject.found, scored(subject, score).values(), strict=True):
        expected = slow_normal(slow(subject, group, score, "mean"), unit.get(score, "mean"))
        np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("combine", ["sum", "max", "product", "joint"])
@pytest.mark.parametrize("score", WEIGHTS)
def test_members_are_combined(subject: Subject, score: str, combine: str) -> None:
    for group, own in zip(
        subject.found, scored(subject, score, combine=combine, normalize="none").values(), strict=True
    ):
        np.testing.assert_allclose(own, slow(subject, group, score, combine), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalize", ["mean", "max", "gaussian", "lamp", "none"])
def test_groups_are_made_comparable(subject: Subject, normalize: str) -> None:
    for group, own in zip(subject.found, scored(subject, "l1", normalize=normalize).values(), strict=True):
        np.testing.assert_allclose(own, slow_normal(slow(subject, group, "l1", "mean"), normalize), rtol=1e-9)


def permuted(tree: Any, group: Group, order: np.ndarray) -> Any:
    """The tree with the channels of a group in another order."""

    def one(path: Any, leaf: Any) -> Any:
        for member in group.members:
            if member.path == path_string(path):
                index = np.arange(leaf.shape[member.axis])
                index[member.indices] = member.indices[order]
                leaf = jnp.take(leaf, index, axis=member.axis)
        return leaf

    return jax.tree_util.tree_map_with_path(one, tree)


LAWS = [*itertools.product(MODELS, WEIGHTS), ("cnn", "apoz"), ("vit", "activation")]  # which are compiled


@pytest.mark.parametrize(("name", "score"), LAWS)
def test_permuting_channels_permutes_scores(name: str, score: str) -> None:
    subject = made(name)
    group = max(subject.found, key=lambda g: len(g.members))
    order = np.random.default_rng(5).permutation(group.size)
    moved = Subject(subject.found, *(permuted(tree, group, order) for tree in subject[1:]))
    before, after = scored(subject, score), scored(moved, score)
    assert {name: own.shape for name, own in after.items()} == {g.name: (g.size,) for g in subject.found}
    for name, own in after.items():
        wanted = before[name][order] if name == group.name else before[name]
        np.testing.assert_allclose(own, wanted, rtol=1e-4 if score in OBSERVED else 1e-9, atol=1e-7)


def zeroed(tree: Any, found: Groups, channel: int) -> Any:
    """The tree with one channel of each group 0 in all its members."""
    masks = found.masks({group.name: np.arange(group.size) != channel for group in found})

    def one(path: Any, leaf: Any) -> Any:
        for (owner, axis), kept in masks.items():
            if owner == path_string(path):
                leaf = jnp.moveaxis(jnp.moveaxis(leaf, axis, -1) * kept, -1, axis)
        return leaf

    return jax.tree_util.tree_map_with_path(one, tree)


@pytest.mark.parametrize(("name", "score"), [case for case in LAWS if case[1] != "fpgm"])
def test_a_channel_of_zeros_scores_lowest(name: str, score: str) -> None:
    subject = made(name)
    dead = subject._replace(params=zeroed(subject.params, subject.found, 1))
    for own in scored(dead, score).values():
        assert own[1] == own.min()
    if score not in OBSERVED:
        nothing = subject._replace(params=jax.tree.map(jnp.zeros_like, subject.params))
        assert all(np.isfinite(own).all() for own in scored(nothing, score).values())


def test_scores_average_over_batches_of_gradients(subject: Subject) -> None:
    trees = [randomize(subject.grads, seed) for seed in (3, 4)]
    each = [importance(subject.found, subject.params, "taylor_squared", grads=tree) for tree in trees]
    both = importance(subject.found, subject.params, "taylor_squared", grads=iter(trees))
    for name, own in both.items():
        np.testing.assert_allclose(own, (each[0][name] + each[1][name]) / 2)


def test_random_is_what_its_seed_says(subject: Subject) -> None:
    first, again, other = (importance(subject.found, subject.params, "random", seed=seed) for seed in (1, 1, 2))
    for name, own in first.items():
        assert np.array_equal(own, again[name])
        assert not np.array_equal(own, other[name])


def test_joint_taylor_is_what_a_gate_costs() -> None:
    """Molchanov's criterion: the derivative with respect to a factor on the channel, taken behind norm and bias."""
    params = randomize({"w": jnp.ones((3, 5)), "scale": jnp.ones(5), "bias": jnp.ones(5), "v": jnp.ones((5, 2))})
    x = jnp.asarray(np.random.default_rng(1).standard_normal((7, 3)), jnp.float32)

    def function(p: Any, x: jax.Array, gate: Any = 1.0) -> jax.Array:
        return jnp.tanh(gate * (p["scale"] * (x @ p["w"]) + p["bias"])) @ p["v"]

    found = groups(function, params, x)
    slope = jax.grad(lambda p, gate: (function(p, x, gate) ** 2).sum(), argnums=(0, 1))
    grads, gate = slope(params, jnp.ones(5))
    ends = {name: grads[name] for name in ("scale", "bias")}
    scores = importance(found, params, "taylor", grads=ends, combine="joint")
    np.testing.assert_allclose(scores["w"], np.abs(gate), rtol=1e-4, atol=1e-5)


def linen_inputs(model: nn.Module, variables: Any, x: jax.Array) -> dict[str, np.ndarray]:
    """What each convolution and dense layer is fed, recorded by Flax."""
    fed: dict[str, Any] = {}

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Conv | nn.Dense) and context.method_name == "__call__":
            fed["/".join(context.module.path)] = np.asarray(args[0], np.float64)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        model.apply(variables, x)
    return fed


@pytest.mark.parametrize("score", OBSERVED)
def test_activations_are_what_the_readers_are_fed(score: str) -> None:
    model = models.CNN()
    variables = randomize(jax.eval_shape(model.init, jax.random.key(0), IMAGE))
    found = groups(model.apply, variables, IMAGE)
    batches = [IMAGE, IMAGE[::-1] * 2 - 1]
    own = activations(found, variables, [(batch,) for batch in batches], score)
    readers = {"Conv_0": "Conv_1", "Conv_1": "Dense_0", "Dense_0": "Dense_1"}
    for maker, reader in readers.items():
        name = f"params/{maker}/kernel"
        fed = [linen_inputs(model, variables, batch)[reader].reshape(-1, found[name].size) for batch in batches]
        values = np.concatenate(fed)
        expected = (np.abs(values) if score == "activation" else values != 0).mean(0)
        np.testing.assert_allclose(own[name], expected, rtol=1e-5)


def test_activations_are_seen_in_loops_branches_and_remat() -> None:
    params = randomize(
        {"a": jnp.ones((3, 3, 8)), "b": jnp.ones((3, 8, 3)), "c": jnp.ones((3, 5)), "d": jnp.ones((5, 2))}
    )
    x = jnp.asarray(np.random.default_rng(2).standard_normal((4, 3)), jnp.float32)

    def function(p: Any, x: jax.Array) -> jax.Array:
        def layer(h: jax.Array, w: Any) -> tuple[jax.Array, None]:
            return h + jax.nn.relu(h @ w["a"]) @ w["b"], None

        h, _ = jax.lax.scan(jax.checkpoint(layer), x, {"a": p["a"], "b": p["b"]})
        return jax.lax.cond(x[0, 0] > 0, lambda h: jax.nn.relu(h @ p["c"]) @ p["d"], lambda h: h[:, :2], h)

    found = groups(function, params, x)
    own = activations(found, params, [(x.at[0, 0].set(1.0),), (x.at[0, 0].set(-1.0),)])
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden, ends = [], []
    for first in (1.0, -1.0):
        h = np.asarray(x.at[0, 0].set(first), np.float64)
        for a, b in zip(p["a"], p["b"], strict=True):
            hidden.append(np.maximum(h @ a, 0))
            h = h + hidden[-1] @ b
        ends += [np.maximum(h @ p["c"], 0)] if first > 0 else []
    np.testing.assert_allclose(own["a"], np.mean(hidden, axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(own["c"], np.mean(ends, axis=(0, 1)), rtol=1e-4)


def test_hessian_diagonal_is_exact_on_a_diagonal_and_right_on_average() -> None:
    rng = np.random.default_rng(3)
    square = rng.standard_normal((6, 6))
    square = square + square.T
    params = {"x": jnp.asarray(rng.standard_normal(6), jnp.float32), "count": jnp.array(3)}
    diagonal = hessian_diagonal(lambda p: jnp.sum(jnp.arange(6.0) * p["x"] ** 3), params, jax.random.key(0), samples=1)
    np.testing.assert_allclose(diagonal["x"], 6 * np.arange(6) * np.asarray(params["x"]), rtol=1e-5)
    samples = 4000
    found = hessian_diagonal(
        lambda p: p["x"] @ jnp.asarray(square, jnp.float32) @ p["x"] / 2, params, jax.random.key(1), samples
    )
    deviation = np.sqrt((square**2).sum(1) - np.diag(square) ** 2) / np.sqrt(samples)
    assert np.all(np.abs(np.asarray(found["x"]) - np.diag(square)) < 5 * deviation)
    assert not jax.tree.leaves(found["count"])


def test_output_gradients_measure_what_outputs_move_by() -> None:
    rng = np.random.default_rng(4)
    inputs, weights = rng.standard_normal((5, 3)), rng.standard_normal((3, 2))
    params = {"w": jnp.asarray(weights, jnp.float32), "count": jnp.array(3)}
    way = rng.standard_normal((3, 2))

    def outputs(p: Any, x: jax.Array) -> Any:  # a tree of several outputs, one of them no real number
        return {"tanh": jnp.tanh(x @ p["w"]), "half": (x @ p["w"][:, 0]).astype(jnp.bfloat16), "sign": x[0] > 0}

    samples = 400
    batch = (jnp.asarray(inputs, jnp.float32),)
    drawn = list(output_gradients(outputs, params, [batch] * samples, seed=7))
    squares = [float(np.sum(np.asarray(tree["w"], np.float64) * way)) ** 2 for tree in drawn]
    moved = np.concatenate([((1 - np.tanh(inputs @ weights) ** 2) * (inputs @ way)).ravel(), inputs @ way[:, 0]])
    want = np.sum(moved**2)
    assert abs(np.mean(squares) - want) < 5 * np.sqrt(2 / samples) * want  # a squared sum of signs varies no more
    assert not jax.tree.leaves(drawn[0]["count"])


@pytest.mark.parametrize("size", [1e-4, 0.02, 500.0])
def test_curvature_of_half_precision_is_summed_in_single(size: float) -> None:
    gradient = jnp.full(3, size, jnp.bfloat16)
    squares = fisher_diagonal([{"w": gradient}] * 600)["w"]
    np.testing.assert_allclose(squares, 600 * np.float64(gradient) ** 2, rtol=1e-3)
    found = hessian_diagonal(lambda p: jnp.sum(gradient * p["w"] ** 2), {"w": gradient}, jax.random.key(0), samples=600)
    np.testing.assert_allclose(found["w"], 2 * np.float64(gradient), rtol=1e-2)


def test_fisher_is_half_molchanovs_sum_over_entries(subject: Subject) -> None:
    scores = importance(
        subject.found, subject.params, "hessian", curvature=fisher_diagonal([subject.grads]), combine="sum"
    )
    leaves, slopes = named_leaves(subject.params), named_leaves(subject.grads)
    for group in subject.found:
        members = [m for m in group.members if m.path in slopes]
        for channel, own in enumerate(scores[group.name]):
            products = [own_entries(m, leaves, channel) * own_entries(m, slopes, channel) for m in members]
            assert own == pytest.approx(sum(float(np.sum(row**2)) for row in products) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        ("l3", {}, "score must be one of l1, l2, lamp.*got 'l3'"),
        ("l2", {"combine": "median"}, "combine must be one of mean, sum, max, product, joint"),
        ("l2", {"normalize": "sum"}, "normalize must be one of mean, max, gaussian, lamp, none"),
        ("taylor", {}, "'taylor' needs grads="),
        ("taylor", {"grads": iter([])}, "the iterator gave none"),
        ("taylor", {"grads": {"w": jnp.ones(3)}}, "none among its members .*Conv_0/kernel"),
        ("hessian", {}, "needs curvature="),
        ("activation", {}, "needs batches="),
        ("apoz", {"batches": []}, "gave no batch"),
        ("apoz", {"batches": [(IMAGE[:1],)]}, r"of the shapes of the example.*\(2, 8, 8, 3\).*got \[\(1, 8, 8, 3\)\]"),
    ],
)
def test_what_is_missing_is_said(score: str, options: Any, message: str) -> None:
    variables = randomize(jax.eval_shape(models.CNN().init, jax.random.key(0), IMAGE))
    with pytest.raises(ArgumentError, match=message):
        importance(groups(models.CNN().apply, variables, IMAGE), variables, score, **options)
    with pytest.raises(ArgumentError, match="at least one"):
        fisher_diagonal([])
    with pytest.raises(ArgumentError, match="samples"):
        hessian_diagonal(lambda p: p["w"].sum(), {"w": jnp.ones(2)}, jax.random.key(0), 0)
