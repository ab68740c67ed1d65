"""Scores on every model, three each in turn, with targets met; and channels as a view, with parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.observe import fisher_diagonal
from jaxcomp.rewrite import choose, importance, mask, shrink
from jaxcomp.trace import groups
from tests.rewrite.channels.test_models import CASES, DISTINCT, prepared
from tests.rewrite.parity import TOLERANCE, distance, randomize

pytestmark = pytest.mark.exhaustive
SCORES = ("l2", "activation", "fpgm", "taylor", "lamp", "hessian", "norm_scale", "apoz")


def options(score: str, params: Any, example: Any) -> dict[str, Any]:
    if score in ("activation", "apoz"):
        return {"batches": [(example,), (2 * example,)]}
    grads = randomize(params, 3)
    return {"taylor": {"grads": grads}, "hessian": {"curvature": fisher_diagonal([grads])}}.get(score, {})


@pytest.mark.parametrize(("turn", "name"), enumerate(CASES))
def test_scores_and_target(turn: int, name: str) -> None:
    apply_fn, params = prepared(CASES[name])
    example = CASES[name].example
    found = groups(apply_fn, params, example)
    for score in (SCORES[(3 * turn + i) % len(SCORES)] for i in range(3)):
        given = options(score, params, example)
        scores = importance(found, params, score, **given)
        assert {n: own.shape for n, own in scores.items()} == {g.name: (g.size,) for g in found}
        assert all(np.isfinite(own).all() for own in scores.values())
        keep = choose(macs=0.8, score=lambda f, p, s=scores: s, scope="global")(found, params)
        assert found.costs(keep).macs <= 0.8 * found.costs().macs


@pytest.mark.parametrize("name", DISTINCT)
def test_models_as_views(name: str) -> None:
    apply_fn, params = prepared(CASES[name])
    example = CASES[name].example
    found = groups(apply_fn, params, example)
    prune = jc.prune.channels(found, 0.4, scope="global", minimum=2)
    state = jax.jit(prune.init)(params)
    view = jax.jit(prune.apply)(params, state)
    masked = mask(found, params, state)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, view, masked))
    new, small = shrink(apply_fn, params, example, keep=state)
    whole, left = jax.jit(apply_fn)(view, example), jax.jit(new)(small, example)
    if CASES[name].train:
        whole, left = whole[0], left[0]
    assert distance(whole, left) <= TOLERANCE
