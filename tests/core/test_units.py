"""Units are powers of two, and nothing that is fitted depends on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.units import host_unit, unit
from jaxcomp.quant.formats import integer
from jaxcomp.quant.granularity import ScaleGroups
from jaxcomp.quant.ranges import deviations, entropy, histogram, mean_size, mse, percentile


def test_a_unit_is_the_power_of_two_just_below() -> None:
    sizes = np.float32([1e-37, 3e-20, 0.5, 0.999, 1, 7, 3e38])
    np.testing.assert_array_equal(unit(jnp.asarray(sizes)), 2.0 ** np.floor(np.log2(np.float64(sizes))))
    assert [host_unit(x) for x in sizes] == unit(jnp.asarray(sizes)).tolist()
    assert unit(jnp.array([0.0, 1e-45, jnp.inf, jnp.nan])).tolist() == [1.0] * 4
    assert host_unit(np.inf) == host_unit(np.nan) == host_unit(0.0) == 1.0


@pytest.mark.parametrize("fit", [mse(20), deviations(), mean_size(), percentile(0.9), entropy(20)])
def test_fits_do_not_depend_on_the_unit(fit) -> None:
    values = jax.random.normal(jax.random.key(0), (64,)) ** 3
    counts = jnp.histogram(values, 64, range=(-8, 8))[0]
    edges = jnp.linspace(-8.0, 8.0, 65)

    def ends(size: jax.Array) -> jax.Array:
        binned = fit.name == "entropy"
        groups = histogram(edges * size, counts) if binned else ScaleGroups(values * size, (0,))
        return jnp.stack([end.ravel()[0] for end in fit(groups, integer(3))]) / size

    found = jax.jit(jax.vmap(ends))(2.0 ** jnp.array([0.0, -90.0, -70.0, 60.0, 80.0]))
    np.testing.assert_array_equal(found, found[:1].repeat(5, 0))
