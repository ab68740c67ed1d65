"""The main job's step and the exact threshold, as the TPU compiler compiles them for four v5e chips."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="the TPU compiler is not installed: pip install -e '.[tpu]'",
    ),
]

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled():
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.tpu.compile_ahead"],
        cwd=ROOT,
        env={**inherited, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"the TPU compiler failed:\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])


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
    """Every array of the state that the step reads is overwritten in place; the others are never handed over."""
    report = compiled[program]
    assert report["aliases"] == report["donated"] - report["dropped"]
    # Of three kernels, old scales and zero points are not read where new ones are fitted.
    assert report["dropped"] == (6 if program.endswith("whole") else 0)


def test_a_sharded_threshold_exchanges_a_few_numbers(compiled):
    """Two loops (scores, ties), each with one all-reduce of eight counts for each of the two arrays, at the most."""
    found = compiled["threshold"]["collectives"]
    assert found, "the arrays are split, so counts must be summed"
    for collective in found:
        assert int(re.fullmatch(r"all-reduce\[(\d+)\]", collective)[1]) <= 16
