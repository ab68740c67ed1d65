"""Settings of the whole suite.

Eight simulated devices, so that every sharding test runs on a CPU; and no optimization of machine code, which is most
of what compiling a training step costs (2.5 times the time). XLA_FLAGS can ask for it: .ci/run repeats the laws so.
JAX 0.10 can also compile its fused loops without MLIR: the suite takes 0.7 times the time. JAX 0.12 no longer can.

Worker processes share what they compile: for this run, or in the folder that JAX_COMPILATION_CACHE_DIR names. Each
forgets its programs after every 200 tests, and where they keep many mappings of memory: a process of Linux may have
65,530 of them, and XLA crashes where it is refused one more (1,600 exhaustive tests are enough). To forget them after
every test, as some tests did, has what all use compiled again.

A test of many cases is split by their names, in the same way everywhere: one half runs by default, the other is
exhaustive; of many exhaustive cases one half runs in .ci/run, of very many a quarter, and all of them in .ci/nightly.
"""

import atexit
import importlib.metadata
import itertools
import os
import re
import shutil
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the first process: workers are given its environment
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxcomp-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

FEW = {"exhaustive": 3, "nightly": 12}  # so many cases of one test stay together
MANY = 48  # of more exhaustive cases only a quarter stays
_run = itertools.count(1)
MAPPINGS = Path("/proc/self/maps")


@pytest.hookimpl(tryfirst=True)  # before cases are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        of_default = [case for case in cases if not case.get_closest_marker("exhaustive")]
        _leave_out(of_default, "exhaustive", 2)
        others = [case for case in cases if case.get_closest_marker("exhaustive")]
        _leave_out(others, "nightly", 4 if len(others) > MANY else 2)


def _leave_out(cases: list[pytest.Item], marker: str, parts: int) -> None:
    """Marks all but one part of the cases, if they are many."""
    if len(cases) > FEW[marker]:
        for case in cases:
            if zlib.crc32(f"{marker} {case.nodeid}".encode()) % parts:
                case.add_marker(marker)


def pytest_runtest_teardown() -> None:
    run = next(_run)
    crowded = run % 10 == 0 and MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > 20_000
    if run % 200 == 0 or crowded:
        jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def sums_few_numbers() -> Callable[[str], None]:
    """Asserts that a compiled program's only collectives are sums of a few numbers."""

    def check(hlo: str) -> None:
        for collective in ("all-gather", "collective-permute", "all-to-all", "reduce-scatter", "collective-broadcast"):
            assert collective not in hlo
        sums = re.findall(r"= (.+) all-reduce(?:-start)?\(", hlo)
        assert sums
        for shapes in sums:
            counts = [[int(n) for n in dims.split(",") if n] for dims in re.findall(r"\w+\[([\d,]*)\]", shapes)]
            assert sum(int(np.prod(dims)) for dims in counts) <= 32, shapes

    return check


@pytest.fixture
def mesh() -> Mesh:
    """All eight devices along one Auto axis, ``"x"``."""
    return jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
