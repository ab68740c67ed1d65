"""Settings of the whole suite: eight simulated devices, so that every sharding test runs on a CPU."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def mesh() -> Mesh:
    """All eight devices along one Auto axis, ``"x"``."""
    return jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
