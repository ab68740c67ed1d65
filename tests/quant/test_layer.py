"""Layers to round: what does not fit together, or is no number, is refused, and what works on the host says so."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.quant import adaround, descend, gptq, integer

WEIGHT = jnp.asarray(np.random.default_rng(0).standard_normal((2, 13, 5)), jnp.float32)
MOMENT = jnp.stack([jnp.eye(13)] * 2)
FOUR, ONE = integer(4), jc.Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
METHODS = {
    "gptq": gptq,
    "descend": lambda w, *rest: descend(w, w, *rest),
    "adaround": lambda *given: adaround(*given, steps=1),
}
NOT_LAYERS = {
    "two axes": (
        (WEIGHT[0], MOMENT[0], ONE, FOUR),
        r"weight must be .*\[groups, reduction, out\], got float32 of shape",
    ),
    "integers": ((WEIGHT.astype(int), MOMENT, ONE, FOUR), "weight must be real floating point"),
    "complex numbers": ((WEIGHT + 1j, MOMENT, ONE, FOUR), "weight must be real floating point"),
    "another moment": ((WEIGHT, MOMENT[:, 1:, 1:], ONE, FOUR), r"moment must be \(2, 13, 13\) for weights"),
    "another grid": ((WEIGHT, MOMENT, jc.Grid(jnp.ones(3), jnp.zeros(3, int)), FOUR), "grid.scale must broadcast"),
    "another mask": ((WEIGHT, MOMENT, ONE, FOUR, jnp.ones(3, bool)), "kept must broadcast against the weight"),
    "bits": ((WEIGHT, MOMENT, ONE, 4), r"jc.quant.integer\(4\) is, got 4"),
    "no number": ((WEIGHT.at[0].set(jnp.nan), MOMENT, ONE, FOUR), "'weight' holds NaN"),
    "no moment": ((WEIGHT, MOMENT.at[0].set(jnp.inf), ONE, FOUR), "'moment' holds NaN or infinity"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NOT_LAYERS)
def test_what_is_no_layer_is_refused(method: str, name: str) -> None:
    given, said = NOT_LAYERS[name]
    with pytest.raises(jc.JaxcompError, match=said):
        METHODS[method](*given)


@pytest.mark.parametrize("method", ["gptq", "descend"])
@pytest.mark.parametrize("moment", [-MOMENT, 0 * MOMENT])
def test_moments_that_are_not_positive_are_refused(method: str, moment: Any) -> None:
    with pytest.raises(jc.JaxcompError, match="moment must be positive definite"):
        METHODS[method](WEIGHT, moment, ONE, FOUR)


@pytest.mark.parametrize("method", ["gptq", "descend"])
def test_inside_of_jit_what_rounds_on_the_host_says_so(method: str) -> None:
    for transform in (jax.jit, jax.vmap, jax.jacobian):
        with pytest.raises(jc.JaxcompError, match=f"'(weight|start)' is traced.* call {method} outside of jit"):
            transform(lambda w: METHODS[method](w, MOMENT, ONE, FOUR))(WEIGHT)
