"""Every form of an integer convolution gives the integers of the convolution as it is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.rewrite import calibrate, quantize
from jaxcomp.rewrite.quant.convolutions import Window, by_neighbors, by_taps, convolution, fastest, pointwise
from tests.rewrite.lowrank.test_factors import conv, normal
from tests.rewrite.parity import quick


class Case(NamedTuple):
    """The input's spatial shape, channels, features, kernel, stride, dilation, groups."""

    sizes: tuple[int, ...]
    channels: int
    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1


CASES = [
    Case((9, 10), 3, 16, 3),
    Case((10, 11), 16, 16, 3, stride=2),
    Case((11, 12), 8, 8, 3, dilation=2),
    Case((12, 13), 3, 33, 5, stride=2),
    Case((10, 7), 4, 1, 3, stride=3),
    Case((13,), 5, 6, 4, stride=2, dilation=2),
    Case((4, 5, 6), 2, 3, 2),
    Case((9, 8), 5, 7, 1, stride=2),
    Case((7,), 5, 7, 1),
    Case((9, 8), 6, 12, 3, groups=6),
    Case((11, 9), 6, 6, 3, stride=2, dilation=2, groups=6),
    Case((4, 5, 6), 3, 3, 2, groups=3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_integers(case: Case, rng: np.random.Generator) -> None:
    ndim = len(case.sizes)
    window = Window((case.stride,) * ndim, (case.dilation,) * ndim, case.groups)
    shape = (*(case.kernel,) * ndim, case.channels // case.groups, case.features)
    x = jnp.asarray(rng.integers(-128, 128, (2, *case.sizes, case.channels)), jnp.int8)
    w = jnp.asarray(rng.integers(-128, 128, shape), jnp.int8)
    form = fastest(case.channels, shape, window)
    assert form is not None
    expected = convolution(x, w, window)
    np.testing.assert_array_equal(form(x, w, window), expected)
    if case.groups == 1:
        for together in (1, 2, 3):
            np.testing.assert_array_equal(by_neighbors(x, w, window, together), expected)


def test_which_form_suits() -> None:
    def chosen(channels: int, features: int, kernel: int = 3, groups: int = 1) -> object:
        form = fastest(channels, (kernel, kernel, channels // groups, features), Window((1, 1), (1, 1), groups))
        return getattr(form, "keywords", form)

    assert chosen(16, 16) == {"together": 2}
    assert chosen(3, 16) == {"together": 4}
    assert chosen(32, 32) is None
    assert chosen(64, 16, kernel=1) is pointwise
    assert chosen(64, 64, groups=64) is by_taps
    assert chosen(64, 64, groups=4) is None


def test_a_program_for_several_platforms_has_the_convolution_as_it_is_elsewhere() -> None:
    params, x = {"w": normal(3, 3, 3, 16)}, normal(2, 8, 8, 3)
    function = conv((1, 1), "SAME")
    new, packed = quantize(function, params, x, ranges=calibrate(function, params, [x]))
    exported = jax.export.export(jax.jit(new), platforms=("cpu", "tpu"))(packed, x)
    text = exported.mlir_module()
    assert "tensor<2x10x10x3xi8>, tensor<3x3x3x16xi8>) -> tensor<2x8x8x16xi32>" in text
    assert "tensor<3x2x12x64xi8>) -> tensor<2x8x2x64xi32>" in text
    np.testing.assert_array_equal(exported.call(packed, x), quick(new)(packed, x))
