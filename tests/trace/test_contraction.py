"""The axes of matmuls and convolutions: in their order both are the textbook's sums."""

import itertools
import math

import jax
import numpy as np
import pytest
from jax import lax

from jaxcomp.trace.contraction import Axes, Contraction
from jaxcomp.trace.ir import trace

DOTS = [
    ((2, 3, 4, 5), (5, 6, 3), ((3,), (0,)), ((1,), (2,))),
    ((4, 2, 3), (3, 7, 4), ((0, 2), (2, 0)), ((), ())),
    ((2, 3), (2, 3), ((), ()), ((1, 0), (1, 0))),
    ((2,), (3,), ((), ()), ((), ())),
]


def _read(function, *shapes):
    """The contraction of a function of two arrays, those arrays and its result."""
    rng = np.random.default_rng(0)
    operands = [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]
    program = trace(lambda rhs, lhs: function(lhs, rhs), operands[1], operands[0])
    (node,) = [node for node in program.frame.nodes if "dimension_numbers" in node.params]
    return Contraction(node), operands, np.asarray(function(*operands))


def _ordered(own: Axes, array: np.ndarray) -> np.ndarray:
    """``[batch, free, window..., contracted]``."""
    sizes = [math.prod(array.shape[i] for i in axes) for axes in (own.batch, own.free)]
    window, summed = [array.shape[i] for i in own.window], math.prod(array.shape[i] for i in own.contracted)
    return array.transpose(*own.passed, *own.window, *own.contracted).reshape(*sizes, *window, summed)


@pytest.mark.parametrize(("lhs", "rhs", "summed", "batch"), DOTS)
def test_a_matmul_is_a_product_of_matrices(lhs, rhs, summed, batch):
    axes, operands, result = _read(lambda x, w: lax.dot_general(x, w, (summed, batch)), lhs, rhs)
    a, b = (_ordered(own, array) for own, array in zip(axes.operands, operands, strict=True))
    expected = a @ b.swapaxes(1, 2)
    assert np.array_equal(result.reshape(expected.shape), expected)
    assert (*axes.batch, *axes.free[0], *axes.free[1]) == tuple(range(result.ndim))
    for own, places, array in zip(axes.operands, axes.places, operands, strict=True):
        assert [array.shape[i] for i in own.passed] == [result.shape[i] for i in places]


@pytest.mark.parametrize("layouts", [("NHWC", "HWIO", "NHWC"), ("HNCW", "OWHI", "WCHN")])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_a_sum_over_its_window(layouts, groups):
    sizes = [{"N": 2, "C": 4, "H": 4, "W": 3}, {"O": 6, "I": 4 // groups, "H": 3, "W": 2}]
    shapes = [tuple(own[name] for name in layout) for own, layout in zip(sizes, layouts, strict=False)]

    def convolved(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=layouts, feature_group_count=groups)

    axes, operands, result = _read(jax.jit(convolved), *shapes)
    x, w = (_ordered(own, array)[0] for own, array in zip(axes.operands, operands, strict=True))
    assert axes.groups == groups
    places = [result.shape[i] for i in axes.window]
    expected = np.zeros((2, *places, 6))
    for (i, j), group in itertools.product(np.ndindex(*w.shape[1:-1]), range(groups)):
        seen = x[:, i : i + places[0], j : j + places[1], group * w.shape[-1] :][..., : w.shape[-1]]
        made = slice(group * 6 // groups, (group + 1) * 6 // groups)
        expected[..., made] += seen @ w[made, i, j].T
    assert np.array_equal(result.transpose(*axes.free[0], *axes.window, *axes.free[1]), expected)
