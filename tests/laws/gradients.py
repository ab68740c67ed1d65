"""Pruners that need gradients, for executions that hand over none: the gradients follow from the parameters."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxcomp as jc
from jaxcomp.core.leaves import is_real


def gradients(params: Any) -> Any:
    """Exact in every type: neither the order of the weights nor their signs."""
    return jax.tree.map(lambda leaf: jnp.where(leaf > 0, leaf / 2, leaf * -2) if is_real(leaf) else leaf, params)


def given(compressor: jc.Compressor) -> jc.Compressor:
    """The compressor with gradients at every update, the first one included."""

    def update(params: Any, state: Any, step: Any, **extra: Any) -> Any:
        return compressor.update(params, state, step, grads=gradients(params), **extra)

    return compressor._replace(init=lambda params: update(params, compressor.init(params), 0), update=update)
