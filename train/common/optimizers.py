"""The optimizers of training scripts, by name."""

import jax
import optax

NAMES = ("adamw", "sgd")


def make(name: str, learning_rate: float, steps: int, weight_decay: float) -> optax.GradientTransformation:
    """AdamW or Nesterov SGD on a cosine that ends at 0; weight decay on kernels alone, leaves of more than one axis.

    Args:
      name: ``"adamw"``, or ``"sgd"`` with a momentum of 0.9.
      learning_rate: at the start.
      steps: in all.
      weight_decay: of kernels.
    """

    def kernels(params: optax.Params) -> optax.Params:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay, mask=kernels)
    decay = optax.add_decayed_weights(weight_decay, mask=kernels)
    return optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))
