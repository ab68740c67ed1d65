"""Top-KAST: the loss sees few weights, and a few more learn."""

from typing import Any

import jax

from jaxcomp.core.called import checked, printed
from jaxcomp.core.kept import kept as kept_by
from jaxcomp.core.straight_through import pass_through
from jaxcomp.core.types import Compressor, Note, Params, State, Step


@printed
def top_kast(forward: Compressor, backward: Compressor) -> Compressor:
    """Shows the view of one pruner, with the gradients of another that keeps more.

    Weights between the two masks are 0 in the loss and learn nevertheless, so that they may come into the first; those
    outside both stand still.

    Args:
      forward: the pruner of the view that the loss sees: ``prune(0.9)``.
      backward: the pruner of weights that learn: ``prune(0.8)``.

    Returns:
      A compressor whose state is ``{"forward": ..., "backward": ...}``.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> both = top_kast(jc.prune.magnitude(0.75), jc.prune.magnitude(0.5))
      >>> w = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> state = both.init(w)
      >>> both.apply(w, state).tolist(), jax.grad(lambda w: both.apply(w, state).sum())(w).tolist()
      ([0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 1.0, 1.0])

    Reference: Jayakumar et al., Top-KAST: top-k always sparse training, 2020.
    """
    for name, each in {"forward": forward, "backward": backward}.items():
        checked(each, f"top_kast(forward, backward): {name}")

    def init(params: Params) -> State:
        return {"forward": forward.init(params), "backward": backward.init(params)}

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        return {
            "forward": forward.update(params, state["forward"], step, **extra),
            "backward": backward.update(params, state["backward"], step, **extra),
        }

    def apply(params: Params, state: State) -> Params:
        seen, learns = forward.apply(params, state["forward"]), backward.apply(params, state["backward"])

        def joined(leaf: Any, value: Any, slope: Any) -> Any:
            return value if value is leaf else pass_through(value, slope)

        return jax.tree.map(joined, params, seen, learns)

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        return dict(forward.describe(params, state["forward"], step))

    def kept(params: Params, state: State) -> Params:
        return kept_by(forward, params, state["forward"])

    return Compressor(init, update, apply, describe, kept)
