"""Calls that take long tell how far they are, and do the same whoever is told."""

import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.rewrite import Scheme

RNG = np.random.default_rng(0)
PARAMS = {name: jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32) for name in "ab"}
DATA = [jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32) for _ in range(2)]
LOW = Scheme(4, input_bits=4)


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["a"]) @ p["b"]


CALLS = {
    "calibrate": lambda **told: jc.rewrite.calibrate(mlp, PARAMS, DATA, LOW, **told),
    "qat": lambda **told: jc.rewrite.qat(mlp, PARAMS, DATA, LOW, **told)[1],
    "ptq": lambda **told: jc.posttrain.ptq(mlp, PARAMS, DATA, LOW, end_bits=None, **told).params,
    "round_weights": lambda **told: (
        jc.posttrain.round_weights(mlp, PARAMS, DATA, Scheme(4, inputs=None), **told).params
    ),
    "sparsify": lambda **told: jc.posttrain.sparsify(mlp, PARAMS, DATA, 0.5, method="sparsegpt", **told).params,
    "sensitivity": lambda **told: [
        row.harm for row in jc.search.sensitivity(mlp, PARAMS, DATA, {"low": LOW, "float": None}, **told).rows
    ],
    "fall_back": lambda **told: jc.search.fall_back(mlp, PARAMS, DATA, lambda f, p: 1.0, drop=1, **told).score,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_step_is_told_up_to_the_last(name: str) -> None:
    told: list[tuple[int, int, str]] = []
    result = CALLS[name](progress=lambda *step: told.append(step))
    assert all(0 <= done <= total and what for done, total, what in told)
    assert told[-1][0] == told[-1][1] > 0
    assert len(told) >= 3
    for (before, whole, _), (after, total, _) in itertools.pairwise(told):
        # Parts of a call have their own totals; within one, nothing is told twice.
        assert total != whole or after == before + 1 or after == 0
    jax.tree.map(np.testing.assert_array_equal, CALLS[name](progress=False), result)


@pytest.mark.parametrize("name", CALLS)
def test_the_argument_is_the_last_to_be_seen(name: str) -> None:
    function = next(getattr(room, name) for room in (jc.rewrite, jc.posttrain, jc.search) if name in room.__all__)
    assert "progress: " in function.__doc__
    assert inspect.signature(function).parameters["progress"].default is None
