"""The noun of losses that learn: values made from shapes alone, trained beside the student and dropped after."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from jaxcomp.core.types import Params


class LearnedLoss(NamedTuple):
    """A loss with learned values of its own: pure functions, as of a model.

    Its values are ordinary parameters. Train them with the student's, by one optimizer, and drop them after:

    Attributes:
      init: ``key -> values``, a tree of float32 arrays; needs no features, and works under ``jax.eval_shape``.
      apply: ``(values, student, teacher, *, where=None) -> loss``, as the function that made it says.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxcomp as jc
      >>> loss, features = jc.distill.vid((8, 16)), jnp.ones((8, 16))
      >>> params = {"student": jnp.zeros((8, 16)), "loss": loss.init(jax.random.key(0))}
      >>> grads = jax.grad(lambda p: loss.apply(p["loss"], p["student"], features).mean())(params)
      >>> sorted(grads)
      ['loss', 'student']
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Any]
