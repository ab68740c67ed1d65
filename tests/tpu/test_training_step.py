"""The main job's step and the exact threshold, as the TPU compiler compiles them for four v5e chips."""

import re

import pytest

from tests.tpu import compiler

pytestmark = compiler.MARKS


@pytest.fixture(scope="module")
def compiled():
    return compiler.run("tests.tpu.compile_ahead")


def test_it_is_compiled_for_chips_that_the_host_lacks(compiled):
    assert "TPU" in compiled["kind"]
    assert (compiled["chips"], compiled["host"]) == (4, 1)


@pytest.mark.parametrize("program", ["jit views", "jit whole", "pmap whole"])
def test_compression_adds_no_collectives(compiled, program):
    plain = compiled[f"{program.split()[0]} plain"]["collectives"]
    assert plain, "the gradients are summed over the chips"
    assert compiled[program]["collectives"] == plain


@pytest.mark.parametrize("program", ["jit plain", "jit views", "jit whole", "pmap plain", "pmap whole"])
def test_the_new_state_takes_the_memory_of_the_old_one(compiled, program):
    """Every array of the state is read, and overwritten in place."""
    report = compiled[program]
    assert report["aliases"] == report["donated"]


def test_a_sharded_threshold_exchanges_a_few_numbers(compiled):
    """Two loops (scores, ties), each with one all-reduce of eight counts for each of the two arrays, at the most."""
    found = compiled["threshold"]["collectives"]
    assert found, "the arrays are split, so counts must be summed"
    for collective in found:
        assert int(re.fullmatch(r"all-reduce\[(\d+)\]", collective)[1]) <= 16
