"""Reconstruction against slow NumPy in float64: brute force, least squares, the papers' own loops."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core import quadratic
from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune import reconstruct as r
from jaxcomp.prune.obc import eliminate, obc
from jaxcomp.prune.sparsegpt import sparsegpt

METHODS = ("wanda", "sparsegpt", "obc")


def layer(seed: int = 0, groups: int = 1, size: int = 7, out: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the damped moment of correlated inputs of very different sizes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, size, 5 * size)) * np.exp(rng.standard_normal((groups, size, 1)))
    x[:, 1:] += x[:, :-1]
    moment = x @ x.swapaxes(1, 2)
    return rng.standard_normal((groups, size, out)), np.asarray(quadratic.damped(single(moment)), np.float64)


def single(x: Any) -> Any:
    return jnp.asarray(x, jnp.float32)


def pruned(method: str, weight: Any, moment: Any, keep: int) -> tuple[np.ndarray, np.ndarray]:
    weight, moment = single(weight), single(moment)
    if method == "sparsegpt":
        mask, new = sparsegpt(weight, moment, keep, block=3)
    elif method == "obc":
        mask, new = obc(weight, moment, keep)
    else:
        scores = jnp.abs(weight) if method == "magnitude" else r.wanda_scores(weight, r.norms_of(moment))
        mask = r.keep_of_layer(scores, keep)
        new = jnp.where(mask, weight, 0)
    return np.asarray(mask), np.asarray(new, np.float64)


def error(weight: np.ndarray, new: np.ndarray, moment: np.ndarray) -> float:
    change = weight - new
    return float(np.einsum("gio,gij,gjo->", change, moment, change))


def refitted(weight: np.ndarray, moment: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The best weights of a mask: of a root of the moment, ``numpy.linalg.lstsq``, output by output."""
    new = np.zeros_like(weight)
    for g, o in np.ndindex(weight.shape[0], weight.shape[2]):
        root = np.linalg.cholesky(moment[g]).T
        own = mask[g, :, o]
        new[g, own, o] = np.linalg.lstsq(root[:, own], root @ weight[g, :, o], rcond=None)[0]
    return new


def test_the_update_is_the_least_squares_solution_of_its_mask() -> None:
    weight, moment = layer(groups=2, size=20, out=4)
    mask = np.random.default_rng(1).random(weight.shape) < 0.4
    mask[:, :, 0] = False
    new = r.least_squares(single(weight), single(moment), jnp.asarray(mask))
    np.testing.assert_allclose(new, refitted(weight, moment, mask), atol=1e-4)
    assert not np.asarray(new)[~mask].any()


@pytest.mark.parametrize("seed", range(3))
def test_elimination_takes_the_cheapest_weight_at_every_step(seed: int) -> None:
    weight, moment = layer(seed, size=6, out=2)
    found = eliminate(single(weight), single(moment))
    for o in range(2):
        own, before = weight[:, :, o : o + 1], 0.0
        mask = np.ones_like(own, bool)
        for step in range(6):
            tries = {}
            for p in np.flatnonzero(mask):
                left = mask.copy()
                left[0, p] = False
                tries[p] = error(own, refitted(own, moment, left), moment)
            p = min(tries, key=tries.__getitem__)
            assert int(found.rank[0, p, o]) == step
            np.testing.assert_allclose(found.loss[0, step, o], tries[p] - before, rtol=1e-3, atol=1e-3)
            mask[0, p], before = False, tries[p]


@pytest.mark.parametrize("seed", range(4))
def test_elimination_is_among_the_best_of_all_masks(seed: int) -> None:
    weight, moment = layer(seed, size=7, out=1)
    errors = []
    for kept in itertools.combinations(range(7), 3):
        mask = np.zeros_like(weight, bool)
        mask[0, list(kept)] = True
        errors.append(error(weight, refitted(weight, moment, mask), moment))
    mask, new = pruned("obc", weight, moment, 3)
    reached = error(weight, new, moment)
    assert min(errors) * (1 - 1e-4) <= reached <= sorted(errors)[3] * (1 + 1e-4)  # of 35
    np.testing.assert_allclose(new, refitted(weight, moment, mask), atol=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_counts_are_exact_at_any_scale_of_weights_and_in_the_last_block(scale: float) -> None:
    weight, moment = layer(size=8, out=5)  # of blocks of 3, the last has a row that is none
    assert pruned("sparsegpt", weight * scale, moment, 20)[0].sum() == 20
    assert r.keep_per_output(single(np.abs(weight) * scale), 22).sum() == 22


@pytest.mark.parametrize("method", METHODS)
def test_where_inputs_do_not_correlate_every_method_is_the_best(method: str) -> None:
    weight, moment = layer(size=6, out=4)
    moment = moment * np.eye(6)
    scores = np.square(weight) * np.diagonal(moment, axis1=1, axis2=2)[..., None]
    mask, new = pruned(method, weight, moment, 8) if method != "sparsegpt" else whole_block(weight, moment, 8)
    np.testing.assert_array_equal(mask, scores >= np.sort(scores, axis=None)[-8])
    np.testing.assert_allclose(new, np.where(mask, weight, 0), rtol=1e-5)


def whole_block(weight: np.ndarray, moment: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    mask, new = sparsegpt(single(weight), single(moment), keep)
    return np.asarray(mask), np.asarray(new)


def test_sparsegpt_is_the_paper_s_loop() -> None:
    weight, moment = layer(size=8, out=5)
    mask, new = pruned("sparsegpt", weight, moment, 20)
    own, kept = weight[0].copy(), np.zeros((8, 5), bool)
    for start in range(0, 8, 3):
        rows = np.arange(start, min(start + 3, 8))
        # The inverse's own elimination, row after row, in place of the factor that holds all of them.
        inverses = [np.linalg.inv(moment[0][i:, i:]) for i in range(8)]
        scores = np.array([own[i] ** 2 / inverses[i][0, 0] for i in rows])
        count = round(20 / 8 * (rows[-1] + 1)) - round(20 / 8 * start)
        kept[rows] = scores >= np.sort(scores, axis=None)[-count]
        for i in rows:
            lost = np.where(kept[i], 0, own[i])
            own[i:] -= inverses[i][:, :1] / inverses[i][0, 0] * lost
    np.testing.assert_array_equal(mask[0], kept)
    np.testing.assert_allclose(new[0], own * kept, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("groups", [1, 6])
def test_each_method_is_better_than_the_one_before(seed: int, groups: int) -> None:
    weight, moment = layer(seed, groups, 24 // groups, 8)
    keep = weight.size // 3
    found = (
        pruned("magnitude", weight, moment, keep),
        whole_block(weight, moment, keep),
        pruned("obc", weight, moment, keep),
    )
    errors = [error(weight, new, moment) for _, new in found]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_count_is_exact_and_zeros_are_zeros(method: str) -> None:
    weight, moment = layer(groups=3, size=7, out=3)
    for keep in (1, 10, 31, 63):
        mask, new = pruned(method, weight, moment, keep)
        assert mask.sum() == keep
        assert not new[~mask].any()


@pytest.mark.parametrize("method", METHODS)
def test_outputs_may_come_in_any_order_and_at_any_scale(method: str) -> None:
    weight, moment = layer(size=9, out=4)
    mask, new = pruned(method, weight, moment, 12)
    order = [2, 0, 3, 1]
    other, moved = pruned(method, 4 * weight[..., order], 2 * moment, 12)
    np.testing.assert_array_equal(other, mask[..., order])
    np.testing.assert_allclose(moved, 4 * new[..., order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["wanda", "obc"])
def test_inputs_may_come_in_any_order(method: str) -> None:
    weight, moment = layer(size=9, out=4)
    order = np.random.default_rng(0).permutation(9)
    mask, new = pruned(method, weight, moment, 12)
    other, moved = pruned(method, weight[:, order], moment[:, order][:, :, order], 12)
    np.testing.assert_array_equal(other, mask[:, order])
    np.testing.assert_allclose(moved, new[:, order], atol=1e-4)


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (3, 5), (4, 4)])
def test_a_pattern_holds_in_every_row_of_m(pattern: tuple[int, int]) -> None:
    n, m = pattern
    weight, moment = layer(groups=2, size=14, out=3)
    _, new = sparsegpt(single(weight), single(moment), 0, pattern=pattern)
    exact, _ = obc(single(weight), single(moment), pattern=pattern)
    scored = r.keep_pattern(jnp.abs(single(weight)), pattern)
    for mask in (np.asarray(new) != 0, np.asarray(exact), np.asarray(scored)):
        for start in range(0, 14, m):
            assert (mask[:, start : start + m].sum(1) == min(n, 14 - start)).all()


def test_wanda_keeps_as_many_of_every_output() -> None:
    weight, moment = layer(size=10, out=4)
    scores = r.wanda_scores(single(weight), r.norms_of(single(moment)))
    np.testing.assert_allclose(scores[0], np.abs(weight[0]) * np.sqrt(np.diagonal(moment[0]))[:, None], rtol=1e-5)
    assert np.asarray(r.keep_per_output(scores, 12)).sum(1).tolist() == [[3, 3, 3, 3]]
    counts = np.asarray(r.keep_per_output(scores, 14)).sum(1)
    assert (counts.sum(), counts.min(), counts.max()) == (14, 3, 4)


@pytest.mark.parametrize("method", METHODS)
def test_what_reads_only_zeros_goes_first_and_no_input_at_all_is_magnitude(method: str) -> None:
    weight, moment = layer(size=8, out=2)
    moment[:, 3], moment[:, :, 3] = 0, 0
    weight = np.where(weight < 0, weight - 0.5, weight + 0.5)
    dead = np.asarray(quadratic.damped(single(moment), 1e-5))
    mask, new = pruned(method, weight, dead, 14) if method != "sparsegpt" else whole_block(weight, dead, 14)
    assert not mask[:, 3].any()
    np.testing.assert_allclose(new[mask], weight[mask], rtol=1e-4)
    none = np.asarray(quadratic.damped(jnp.zeros((1, 8, 8))))
    mask, new = pruned(method, weight, none, 6) if method != "sparsegpt" else whole_block(weight, none, 6)
    np.testing.assert_array_equal(mask, pruned("magnitude", weight, none, 6)[0])
    np.testing.assert_array_equal(new, np.where(mask, np.float32(weight), 0))


def test_what_is_kept_of_a_layer_is_found_alike_on_the_host_and_under_jit() -> None:
    scores = single(np.random.default_rng(0).integers(-2, 3, (2, 5, 4)))  # with many ties, of which the first are kept
    found = jax.jit(lambda keeps: [r.keep_of_layer(scores, keep) for keep in keeps])(jnp.array([0, 1, 17, 40]))
    for keep, mask in zip([0, 1, 17, 40], found, strict=True):
        np.testing.assert_array_equal(r.keep_of_layer(scores, keep), mask)


def test_obs_scores_are_what_each_weight_alone_costs() -> None:
    weight, moment = layer(size=5, out=2)
    scores = r.obs_scores(single(weight), single(moment))
    for p, o in np.ndindex(5, 2):
        mask = np.ones((1, 5, 1), bool)
        mask[0, p] = False
        own = weight[:, :, o : o + 1]
        np.testing.assert_allclose(scores[0, p, o], error(own, refitted(own, moment, mask), moment), rtol=1e-3)


def test_a_block_of_no_rows_is_refused() -> None:
    weight, moment = layer()
    with pytest.raises(ArgumentError, match="block must be at least 1"):
        sparsegpt(single(weight), single(moment), 3, block=0)
