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


@pytest.mark.parametrize("mesh", ["fsdp", "fsdp16"])
def test_compression_of_a_state_in_parts_collects_no_weights(compiled, mesh):
    """On 2x2 chips and on 4x4: what is added are sums of a few numbers, of thresholds and scales."""
    plain, whole = (compiled[f"{mesh} {kind}"]["collectives"] for kind in ("plain", "whole"))
    gathers = lambda found: [each for each in found if each.startswith("all-gather")]  # noqa: E731
    assert gathers(whole) == gathers(plain) != []
    sums = lambda found: sum(map(int, re.findall(r"all-reduce\[(\d+)\]", " ".join(found))))  # noqa: E731
    assert sums(whole) <= sums(plain) + 200


PROGRAMS = ["jit plain", "jit views", "jit whole", "pmap plain", "pmap whole", "fsdp whole", "fsdp16 whole"]


@pytest.mark.parametrize("program", PROGRAMS)
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
