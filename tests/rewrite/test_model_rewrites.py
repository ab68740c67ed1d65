"""Factors of full rank and folding change nothing, on networks as users write them: results and gradients."""

from typing import Any

import jax
import pytest

from jaxcomp.core.paths import named_leaves
from jaxcomp.rewrite import densify, factorize, fold_batch_norm
from tests.rewrite.channels.test_models import CASES, prepared
from tests.rewrite.parity import TOLERANCE, distance

pytestmark = pytest.mark.exhaustive


METHODS = (None, "svd", "spatial")


def run(function: Any, params: Any, x: jax.Array) -> tuple[Any, Any]:
    """Results, and the gradient of a sum of squares of the first."""

    def loss(p: Any) -> Any:
        out = function(p, x)
        return (jax.tree.leaves(out)[0] ** 2).mean(), out

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    (_, out), slopes = compiled(params)
    return out, slopes


@pytest.mark.parametrize(("name", "method"), [(name, METHODS[i % len(METHODS)]) for i, name in enumerate(CASES)])
def test_factors(name: str, method: str | None) -> None:
    (function, params), x = prepared(CASES[name]), CASES[name].example
    new, factors = factorize(function, params, x, rank=1.0, cheaper=False, method=method)
    if method == "spatial" and not any(row.method for row in new.report.rows):
        assert all(row.skipped for row in new.report.rows)
        return
    (out, slopes), (out_new, slopes_new) = run(function, params, x), run(new, factors, x)
    assert distance(out, out_new) <= TOLERANCE
    assert distance(jax.vjp(densify, factors)[1](slopes)[0], slopes_new) <= 2 * TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_folding(name: str) -> None:
    (function, params), x = prepared(CASES[name]), CASES[name].example
    new, folded = fold_batch_norm(function, params, x)
    (out, slopes), (out_new, slopes_new) = run(function, params, x), run(new, folded, x)
    assert distance(out, out_new) <= TOLERANCE
    changed = {row.path for row in new.report.rows if not row.skipped} | {row.bias for row in new.report.rows}
    own, got = named_leaves(slopes), named_leaves(slopes_new)
    kept = [path for path in got if path not in changed]
    assert kept
    assert distance([own[path] for path in kept], [got[path] for path in kept]) <= 2 * TOLERANCE
