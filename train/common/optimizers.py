"""The optimizers of training scripts, by their names in optax."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxcomp.core.paths import path_string
from train.common.errors import UserError


def make(
    name: str,
    learning_rate: float,
    steps: int,
    weight_decay: float,
    *,
    warmup: int = 0,
    clip: float = 0.0,
    undecayed: str = "",
    options: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
    """An optimizer on a cosine that ends at 0; weight decay on kernels alone, leaves of more than one axis.

    Args:
      name: of optax; ``"sgd"`` has a Nesterov momentum of 0.9.
      learning_rate: at its peak, which is the start without a warm-up.
      steps: in all.
      weight_decay: of kernels.
      warmup: steps over which the learning rate rises from 0.
      clip: the largest norm of all gradients together; 0: any.
      undecayed: a regular expression of the paths of kernels that do not decay.
      options: further arguments of optax's.

    Raises:
      UserError: for arguments that optax does not take, or what is no regular expression.
    """
    try:
        re.compile(undecayed)
    except re.error as error:
        raise UserError(f"--config.undecayed={undecayed!r} is no regular expression of paths: {error}") from error

    def kernels(trained: optax.Params) -> optax.Params:
        def decays(path: Any, leaf: Any) -> bool:
            return leaf.ndim > 1 and not (undecayed and re.fullmatch(undecayed, path_string(path[1:])))

        return jax.tree_util.tree_map_with_path(decays, trained)

    maker, own = getattr(optax, name), {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    own |= dict(options or {})
    known = inspect.signature(maker).parameters
    masked = next((key for key in ("mask", "weight_decay_mask") if key in known), None)
    if unknown := sorted(set(own) - set(known)):
        raise UserError(
            f"--config.optimizer_options: optax.{name} has no {', '.join(unknown)}; it has: {', '.join(known)}"
        )
    rate = schedule(learning_rate, steps, warmup)
    if "weight_decay" in known and masked:
        found = maker(rate, **{masked: kernels}, **{"weight_decay": weight_decay, **own})
    else:
        found = optax.chain(optax.add_decayed_weights(weight_decay, mask=kernels), maker(rate, **own))
    return optax.chain(optax.clip_by_global_norm(clip), found) if clip else found


def schedule(learning_rate: float, steps: int, warmup: int = 0) -> optax.Schedule:
    """Straight up from 0 over the warm-up, and down to 0 as half a cosine."""
    if not warmup:
        return optax.cosine_decay_schedule(learning_rate, steps)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps)
