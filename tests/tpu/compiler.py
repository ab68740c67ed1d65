"""The TPU compiler, in a process of its own: it aborts when it fails, and reads its environment once."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MARKS = [
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


def run(module: str) -> dict[str, Any]:
    """Runs a module that compiles for TPU; what it printed, as JSON, on its last line."""
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**inherited, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"the TPU compiler failed:\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])
