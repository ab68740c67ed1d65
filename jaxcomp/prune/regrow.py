"""Regrowth: at each update some of the kept units are dropped, and as many others grow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.counts import fraction_at
from jaxcomp.core.types import Schedule, Step
from jaxcomp.prune.scores import Evidence, Score, random_score, uniform


class Regrow(NamedTuple):
    """How kept units are exchanged for others; their number stays.

    Attributes:
      name: for errors.
      drop: ``step -> fraction`` of the kept units that go.
      grow: ``evidence -> scores``: of the units that are not kept those of the highest come.
      start: the score that ranks units at step 0.
    """

    name: str
    drop: Callable[[Step], Any]
    grow: Callable[[Evidence], Array]
    start: Score

    def __repr__(self) -> str:
        return f"<Regrow {self.name}>"


def random_growth(drop: float | Schedule = 0.3, *, seed: int = 0, start: Score | None = None) -> Regrow:
    """Exchanges the units that score least for random others (SET).

    What comes follows from the seed, the path and the step: no random key is stored.

    Args:
      drop: the fraction of kept units that are exchanged, in [0, 1), or a schedule of it; where it ends at 0, the mask
        stands from there on.
      seed: of what comes.
      start: the score that ranks units at step 0; a random score of the same seed unless given.

    Example:
      >>> import jaxcomp as jc
      >>> pruner, w = jc.prune.prune(0.5, regrow=random_growth(0.5)), jnp.arange(8.0)
      >>> state = pruner.init(w)
      >>> int(state.sum()), int(pruner.update(w, state, 1).sum())
      (4, 4)

    Reference: Mocanu et al., Scalable training of artificial neural networks with adaptive sparse connectivity, 2018.
    """
    grow = lambda evidence: uniform(evidence, seed, 1, jnp.uint32(evidence.step))  # noqa: E731
    return Regrow("random growth", fraction_at(drop, "drop", "kept weights"), grow, start or random_score(seed))


def gradient_growth(drop: float | Schedule = 0.3, *, seed: int = 0, start: Score | None = None) -> Regrow:
    r"""Exchanges the units that score least for those of largest gradient :math:`|g|` (RigL).

    The gradients must be dense: taken at the view, ``jax.grad(loss)(recipe.apply(params, state))``, or through
    :func:`jaxcomp.straight_through`. Through the view itself all that is pruned has a gradient of 0.

    Args:
      drop: the fraction of kept units that are exchanged, or a schedule of it: RigL's is
        ``optax.cosine_decay_schedule(0.3, end)``, after which the mask stands.
      seed: of the random mask at step 0.
      start: the score that ranks units at step 0; a random score unless given.

    Example:
      >>> import jaxcomp as jc
      >>> pruner = jc.prune.prune(0.5, regrow=gradient_growth(0.5, start=jc.prune.magnitude_score()))
      >>> w = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> pruner.update(w, pruner.init(w), 1, grads=jnp.array([9.0, 1.0, 0.0, 0.0])).tolist()  # 3 goes, 1 comes
      [True, False, False, True]

    Reference: Evci et al., Rigging the lottery: making all tickets winners, 2020.
    """
    grow = lambda evidence: jnp.abs(evidence.gradient("the growth by gradients"))  # noqa: E731
    return Regrow("gradient growth", fraction_at(drop, "drop", "kept weights"), grow, start or random_score(seed))


REGROW: dict[str, Callable[[], Regrow]] = {"set": random_growth, "rigl": gradient_growth}
"""Regrowth by the name of the method that it makes of magnitude pruning."""
