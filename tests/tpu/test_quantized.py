"""Integers stay integers on a TPU v5e, by its compiler's word; the next rounding is fused into a convolution.

Of a 3x3 convolution of 256 channels libtpu 0.0.52 expects 120,008 cycles in bfloat16 and 63,560 in int8, what gives the
next one its codes included. Dynamic scales take two passes of their own over what they span.
"""

import pytest

from tests.tpu import compiler

pytestmark = compiler.MARKS


@pytest.fixture(scope="module")
def compiled():
    return compiler.run("tests.tpu.compile_quantized")


@pytest.mark.parametrize("scheme", ["static", "static, symmetric", "dynamic"])
def test_every_site_multiplies_int8_and_sums_up_in_int32(compiled, scheme):
    assert compiled["products"][scheme] == 4 * ["s8 s8 -> s32"]
    assert compiled["products"]["bfloat16"] == 4 * ["bf16 bf16 -> bf16"]


@pytest.mark.parametrize("scheme", ["static", "static, symmetric"])
def test_a_convolution_bound_by_its_products_takes_half_the_cycles(compiled, scheme):
    assert 0.45 <= compiled["largest"][scheme] / compiled["largest"]["bfloat16"] <= 0.6


def test_static_scales_gain_and_dynamic_ones_lose(compiled):
    cycles = compiled["cycles"]
    assert cycles["static, symmetric"] <= cycles["static"] * 1.01
    assert cycles["static"] < 0.85 * cycles["bfloat16"]
    assert cycles["dynamic"] > cycles["bfloat16"]
