"""Dead values are what JAX computes at known numbers, and unknown where an operand is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.trace.channels import cut_values
from jaxcomp.trace.channels.cut_values import FUNCTIONS, UNKNOWN, elementwise

BINARY = ["add", "sub", "mul", "div", "rem", "max", "min", "pow", "atan2", "eq", "ne", "lt", "le", "gt", "ge"]
ELSEWHERE = {"acosh": 1.5}


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"clamp", "add_any"}))
def test_functions_agree_with_jax(name: str) -> None:
    values = [ELSEWHERE.get(name, 0.25), 0.5][: 2 if name in BINARY else 1]
    expected = float(getattr(lax, name)(*map(jnp.float32, values)))
    assert elementwise(name, {}, values) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("op", "values", "expected"),
    [
        ("mul", [0.0, UNKNOWN], 0.0),
        ("mul", [UNKNOWN, 0.0], 0.0),
        ("mul", [2.0, UNKNOWN], UNKNOWN),
        ("div", [0.0, UNKNOWN], 0.0),
        ("div", [UNKNOWN, 2.0], UNKNOWN),
        ("add", [0.0, UNKNOWN], UNKNOWN),
        ("max", [0.0, UNKNOWN], UNKNOWN),
        ("clamp", [-1.0, 3.0, 2.0], 2.0),
        ("select_n", [UNKNOWN, 0.0, 0.0], 0.0),
        ("select_n", [UNKNOWN, 0.0, 1.0], UNKNOWN),
        ("select_n", [1.0, UNKNOWN, 3.0], 3.0),
        ("erf_inv", [0.0], UNKNOWN),
        ("round", [0.5], UNKNOWN),
        ("round", [0.4], UNKNOWN),
        ("round", [1.0], 1.0),
        ("gt", [0.1, 0.0], UNKNOWN),
        ("gt", [0.0, 0.0], 0.0),
    ],
)
def test_what_is_known_of_the_unknown(op: str, values: list[Any], expected: float) -> None:
    assert cut_values.same(elementwise(op, {}, values), expected)


def test_a_cast_to_integers_truncates_and_one_to_bool_compares() -> None:
    assert elementwise("convert_element_type", {"new_dtype": np.dtype("int32")}, [0.7]) == 0
    assert elementwise("convert_element_type", {"new_dtype": np.dtype("bool")}, [0.7]) == 1
    assert elementwise("convert_element_type", {"new_dtype": np.dtype("float32")}, [0.7]) == 0.7


def test_what_is_no_number_is_told_from_what_is_unknown() -> None:
    with np.errstate(all="raise"):
        assert cut_values.undefined("div", [0.0, 0.0], elementwise("div", {}, [0.0, 0.0]))
    assert not cut_values.undefined("div", [1.0, UNKNOWN], elementwise("div", {}, [1.0, UNKNOWN]))
    assert cut_values.undefined("exp", [100.0], elementwise("exp", {}, [100.0]))


def test_each_index_has_its_own() -> None:
    values = np.array([0.0, 1.0, UNKNOWN])
    assert cut_values.same(elementwise("mul", {}, [values, 2.0]), np.array([0.0, 2.0, UNKNOWN]))
    assert cut_values.same(cut_values.zero_if(values, np.array([UNKNOWN, 0.0, 1.0])), np.array([0.0, 0.0, UNKNOWN]))
    assert cut_values.same(cut_values.join(values, 0.0), np.array([0.0, UNKNOWN, UNKNOWN]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (np.zeros((2, 2)), 0.0),
        (np.arange(2), UNKNOWN),
        (jnp.ones(3), 1.0),
        (np.zeros(0), UNKNOWN),
        (True, 1.0),
    ],
)
def test_constants(value: Any, expected: float) -> None:
    assert cut_values.same(cut_values.constant(value), expected)


def test_random_keys_are_no_numbers() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    assert np.isnan(cut_values.constant(keys))
    assert np.isnan(cut_values.constant(keys[0]))
