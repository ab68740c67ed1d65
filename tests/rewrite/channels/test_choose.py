"""Choices reach what was asked and no more, keep what must stay, and say what cannot be had."""

import functools
import time
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.core.paths import named_leaves
from jaxcomp.rewrite import choose, importance, shrink
from jaxcomp.rewrite.channels import budgets
from jaxcomp.trace import Groups, groups
from tests.rewrite import models
from tests.rewrite.parity import randomize
from train.bench.networks import ResNet50, ViTB16, abstract

IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
MODELS = {
    "cnn": models.CNN(),
    "resnet": models.BasicResNet(),
    "mobile": models.MobileBlock(),
    "dense": models.Dense(),
    "vit": models.ViT(),
}
COSTS = ("macs", "parameters", "bytes")


@functools.cache
def prepared(name: str) -> tuple[Groups, Any]:
    variables = randomize(jax.eval_shape(MODELS[name].init, jax.random.key(0), IMAGE))
    return groups(MODELS[name].apply, variables, IMAGE), variables


def counts(keep: Any) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in keep.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_fraction_is_exact_and_cuts_the_least_important(name: str) -> None:
    found, params = prepared(name)
    scores = importance(found, params, "l1")
    for fraction in (0.0, 0.3, 0.5, 0.8):
        each = choose(fraction, "l1")(found, params)
        assert counts(each) == {g.name: max(g.size - round(fraction * g.size), 1) for g in found}
        together = choose(fraction, "l1", scope="global")(found, params)
        total = sum(g.size for g in found)
        assert sum(counts(together).values()) == total - round(fraction * total)
        kept = [scores[g.name][together[g.name]] for g in found]
        cut = np.concatenate([np.zeros(0), *(scores[g.name][~together[g.name]] for g in found)])
        # The last channel of a group stays however little it matters.
        assert min((own.min() for own in kept if len(own) > 1), default=np.inf) >= max(cut, default=0)
        for own, mask in ((scores[g.name], each[g.name]) for g in found):
            assert mask.all() or own[mask].min() >= own[~mask].max()


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("name", MODELS)
def test_a_target_is_met_and_one_channel_more_would_miss_it(name: str, cost: str, scope: Any) -> None:
    found, params = prepared(name)
    scores = importance(found, params, "l2")
    whole = getattr(found.costs(), cost)
    for target in (0.9, 0.6, 0.4):
        keep = choose(scope=scope, **{cost: target})(found, params)
        assert getattr(found.costs(keep), cost) <= target * whole
        cut = {name: int((~mask).sum()) for name, mask in keep.items() if not mask.all()}
        if scope == "global":
            last = max(cut, key=lambda n: scores[n][~keep[n]].max())
        else:
            last = max(cut, key=lambda n: (cut[n] - 0.5) / found[n].size)
        best = max(np.flatnonzero(~keep[last]), key=lambda c: scores[last][c])
        more = {**keep, last: keep[last] | (np.arange(len(keep[last])) == best)}
        assert getattr(found.costs(more), cost) > target * whole
        assert counts(choose(scope=scope, **{cost: target * whole})(found, params)) == counts(keep)
    assert all(mask.all() for mask in choose(scope=scope, **{cost: 1.0})(found, params).values())


@pytest.mark.parametrize("name", MODELS)
def test_costs_are_those_of_the_shrunk_function(name: str) -> None:
    found, params = prepared(name)
    keep = choose(0.4, "random")(found, params)
    new, small = shrink(MODELS[name].apply, params, IMAGE, keep=keep)
    leaves = named_leaves(small).values()
    left = found.costs(keep)
    assert left.parameters == sum(leaf.size for leaf in leaves)
    assert left.bytes == sum(leaf.nbytes for leaf in leaves)
    assert left.macs == groups(new, small, IMAGE).costs().macs
    text = found.report(keep)
    assert f"{found.costs().macs - left.macs:,}" in text.splitlines()[-1]
    assert all(group.name in text for group in found)


@pytest.mark.parametrize("scope", ["group", "global"])
def test_limits_hold_under_every_target(scope: Any) -> None:
    found, params = prepared("cnn")
    asked: list[Any] = [{"fraction": 0.7}, {"macs": 0.7}, {"parameters": 0.7}]
    for target in asked:
        kept = counts(choose(**target, scope=scope, minimum=3, maximum=0.6)(found, params))
        assert all(kept[g.name] >= max(3, g.size - int(0.6 * g.size)) for g in found)
        kept = counts(choose(**target, scope=scope, multiple=4)(found, params))
        assert all(kept[g.name] in (g.size, 4, 8) for g in found)
        ruled = counts(choose(**target, scope=scope, rules=["params/Conv_0/.*", (".*Dense.*", 0.4)])(found, params))
        assert ruled["params/Conv_0/kernel"] == 6
        assert ruled["params/Dense_0/kernel"] >= 6


def test_rules_are_matched_in_order_by_what_makes_a_group() -> None:
    found, params = prepared("resnet")
    kept = counts(choose(0.5, rules=[".*/Conv_1/kernel", (".*", 0.25)])(found, params))
    whole = [name for name, n in kept.items() if n == found[name].size]
    assert whole == [found["params/Conv_1/kernel:3"].name]  # which Conv_2 reads; Conv_1 reads another, which is cut
    assert all(kept[name] == found[name].size - round(0.25 * found[name].size - 1e-9) or name in whole for name in kept)
    with pytest.raises(
        RuleError, match=r"matches no parameter(.|\n)*groups that can be cut are:\n  params/Conv_0/kernel"
    ):
        choose(0.5, rules=[".*/Conv_9/.*"])(found, params)
    with pytest.raises(RuleError, match="earlier rule"):
        choose(0.5, rules=[".*", ".*/Conv_1/kernel"])(found, params)


def test_per_cost_cuts_what_saves_most_first() -> None:
    params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 4)), "c": jnp.ones((4, 50))}
    found = groups(lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"], params, jnp.ones((1, 3)))
    assert found["b"].macs > found["a"].macs

    def flat(found: Groups, params: Any) -> dict[str, np.ndarray]:
        return {group.name: np.ones(group.size) for group in found}

    assert counts(choose(0.25, flat, scope="global", per="macs")(found, params)) == {"a": 8, "b": 1}
    assert counts(choose(0.25, flat, scope="global")(found, params)) == {"a": 8, "b": 1}  # of equals the first stay
    scores = lambda found, params: {"a": np.full(8, 1.0), "b": np.full(4, 2.0)}  # noqa: E731
    assert counts(choose(0.25, scores, scope="global")(found, params)) == {"a": 5, "b": 4}
    assert counts(choose(0.25, scores, scope="global", per="bytes")(found, params)) == {"a": 8, "b": 1}


@pytest.mark.parametrize("scope", ["group", "global"])
def test_infinite_scores_stay_or_go_and_what_is_not_a_number_is_refused(scope: Any) -> None:
    found, params = prepared("cnn")

    def scores(special: float) -> Any:
        return lambda found, params: {g.name: np.array([-np.inf, 1.0, special, *np.ones(g.size - 3)]) for g in found}

    keep = choose(0.5, scores(np.inf), scope=scope)(found, params)
    assert all(mask[2] and not mask[0] for mask in keep.values())
    for asked in ({"fraction": 0.5}, {"macs": 0.5}):
        with pytest.raises(ArgumentError, match=r"the scores of group '\w+/.*' hold NaN in 1 of \d+ channels"):
            choose(**asked, score=scores(np.nan), scope=scope)(found, params)


def test_a_target_out_of_reach_says_what_can_be_had() -> None:
    found, params = prepared("cnn")
    least = found.costs({g.name: np.arange(g.size) < 4 for g in found}).macs
    with pytest.raises(ArgumentError, match=rf"macs=0.01 allows .* {least:,} \(.* of the whole\) are left"):
        choose(macs=0.01, minimum=4)(found, params)
    assert found.costs(choose(macs=float(least), minimum=4)(found, params)).macs == least


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]


MLP = randomize({"a": jnp.ones((16, 64)), "b": jnp.ones((64, 64)), "c": jnp.ones((64, 8))})
ROWS = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16)), jnp.float32)


@pytest.mark.parametrize(
    ("target", "slowing"), [({"latency": 0.5}, 1.0), ({"latency": 0.5}, 1.0001), ({"seconds": 0.5e-3}, 1.0)]
)
def test_a_target_of_time_is_met_by_the_clock(monkeypatch: pytest.MonkeyPatch, target: Any, slowing: float) -> None:
    """The clock of a machine on which time is MACs, and runs take longer and longer."""
    found = groups(mlp, MLP, ROWS)
    whole = found.costs().macs
    now, pace, timed = 0.0, 1e-3 / whole, list[int]()

    def runner(groups: Groups, params: Any, keep: Any) -> Any:
        timed.append(groups.costs(keep).macs)
        cost = timed[-1]

        def run() -> None:
            nonlocal now, pace
            now, pace = now + cost * pace, pace * slowing

        return run

    monkeypatch.setattr(budgets, "_runner", runner)
    monkeypatch.setattr(budgets, "time", SimpleNamespace(perf_counter=lambda: now))
    left = found.costs(choose(**target, trials=8)(found, MLP)).macs
    assert timed[0] == whole
    assert len(timed) == 1 + 8
    assert left == max(macs for macs in timed if macs <= 0.5 * slowing * whole)
    assert 0.47 * whole < left


def test_a_target_of_time_compiles_what_shrink_makes() -> None:
    found = groups(mlp, MLP, ROWS)
    keep = choose(0.5)(found, MLP)
    new, small = shrink(mlp, MLP, ROWS, keep=keep)
    (timed,) = budgets._runner(found, MLP, keep)()
    np.testing.assert_allclose(timed, new(small, jnp.zeros_like(ROWS)), atol=1e-6)
    with pytest.raises(ArgumentError, match=r"seconds=1e-12 was not reached: .* one run took"):
        choose(seconds=1e-12, trials=1)(found, MLP)


@pytest.mark.parametrize("model", [ResNet50(), ViTB16()])
def test_targets_of_full_size_networks_take_no_time(model: Any) -> None:
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = abstract(model, image)
    found = groups(model.apply, params, image)
    whole = found.costs()
    scores = importance(found, params, "random")
    start = time.process_time()
    keep = choose(macs=0.5, score=lambda f, p: scores, scope="global", multiple=8, maximum=0.9)(found, params)
    assert time.process_time() - start < 2  # of this process alone, however busy the machine
    assert 0.49 * whole.macs < found.costs(keep).macs <= 0.5 * whole.macs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give exactly one of fraction .* got none"),
        ({"fraction": 0.5, "macs": 0.5}, "got fraction, macs"),
        ({"fraction": 1.0}, "fraction must be at least 0 and below 1, of channels to cut, got 1.0"),
        ({"macs": 0.0}, "macs must be above 0, got 0.0"),
        ({"latency": 1.5}, "latency must be above 0 and at most 1, got 1.5"),
        ({"fraction": 0.5, "multiple": 0}, "multiple and trials must be at least 1"),
        ({"fraction": 0.5, "scope": "layer"}, "scope must be 'group' or 'global'"),
        ({"fraction": 0.5, "per": "macs"}, "needs scope='global'"),
        ({"fraction": 0.5, "score": lambda f, p: {}, "seed": 1}, "seed would go unused"),
        ({"fraction": 0.5, "per": "seconds"}, "per must be 'macs', 'bytes' or None"),
    ],
)
def test_arguments_outside_their_ranges_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        choose(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minimum": 0}, "minimum must be at least 1"),
        ({"maximum": 1.5}, r"maximum must be a fraction of channels in \[0, 1\], got 1.5"),
        ({"rules": [(".*", 2.0)]}, r"rule '\.\*' must be a fraction of channels"),
        ({"score": lambda f, p: {"params/Conv_0/kernel": np.ones(3)}}, r"must have shape \(6,\), got \(3,\)"),
    ],
)
def test_what_does_not_fit_the_groups_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        choose(0.5, **wrong)(*prepared("cnn"))
