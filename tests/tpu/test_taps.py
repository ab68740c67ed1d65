"""A step of distillation with tapped hints, as the TPU compiler compiles it for four v5e chips."""

import pytest

from tests.tpu import compiler

pytestmark = compiler.MARKS


@pytest.fixture(scope="module")
def compiled():
    return compiler.run("tests.tpu.compile_taps")


def test_it_is_compiled_for_a_chip_that_the_host_lacks(compiled):
    assert "TPU" in compiled["kind"]


def test_taps_add_no_collectives(compiled):
    """The gradients are summed over the chips, and nothing else: the loss is nobody's result."""
    assert compiled["tapped"]["collectives"] == compiled["by hand"]["collectives"] == compiled["without"]["collectives"]


@pytest.mark.parametrize("figure", ["temporary", "output", "code", "cycles"])
def test_taps_are_what_the_values_by_hand_are(compiled, figure):
    assert compiled["tapped"][figure] == compiled["by hand"][figure]


def test_nothing_but_what_is_tapped_is_kept(compiled):
    """The teacher's value and the student's, at the most; as a result, neither."""
    assert compiled["tapped"]["temporary"] - compiled["without"]["temporary"] <= 2 * compiled["hint"]
    assert compiled["tapped"]["output"] == compiled["without"]["output"]
