"""What cutting channels gains on a TPU v5e, by its compiler's own estimate: whole blocks of 128 count.

The matrix unit is 128 wide, so 250 channels cost what 256 cost, and half of them less than half. Multiples of 128 are
what ``choose(multiple=128)`` is for.
"""

import pytest

from tests.tpu import compiler

pytestmark = compiler.MARKS


@pytest.fixture(scope="module")
def compiled():
    return compiler.run("tests.tpu.compile_shrunk")


def test_it_is_compiled_for_a_chip_that_the_host_lacks(compiled):
    assert "TPU" in compiled["kind"]


# The multiply-accumulates are 1.05, 1.72 and 3.64 times fewer; libtpu 0.0.52 expects 1.00, 1.12 and 2.37.
@pytest.mark.parametrize(("channels", "least", "most"), [("250", 0.98, 1.02), ("192", 1.06, 1.72), ("128", 2.0, 3.64)])
def test_a_shrunk_bottleneck_gains_by_whole_blocks(compiled, channels, least, most):
    assert least <= compiled["cycles"]["dense"] / compiled["cycles"][channels] <= most


def test_a_program_from_a_file_costs_what_the_function_costs(compiled):
    assert compiled["cycles"]["exported"] == pytest.approx(compiled["cycles"]["128"], rel=0.02)


def test_the_shrunk_training_step_overwrites_its_state(compiled):
    step = compiled["step"]
    assert step["aliases"] == step["donated"] == 22
