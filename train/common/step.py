"""The training step: distil, prune and fake-quantize in one pure function, whatever the task."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import jaxcomp as jc
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Batch, Outputs, Task

Variables = dict[str, Any]
Loss = Callable[[Outputs, Batch, Any], jax.Array]
Penalty = Callable[[jax.Array, Any, Any], jax.Array]


class TrainState(NamedTuple):
    """All that a run must remember, as one pytree of arrays.

    Attributes:
      step: int32, steps made.
      params: the model's parameters, dense and in floating point behind the recipe's view.
      stats: its other variables (``{"batch_stats": ...}``), or ``{}``.
      opt_state: the optimizer's state, of the parameters and of what the recipe learns.
      compressor: the recipe's state, fitted to the parameters as they are: masks, scales, learned thresholds, ...
      sums: loss, right answers and examples since the last record.
      trouble: int32 ``[1 + parameters]``: 0, or 1 + the first step at which the loss, or a parameter, was not finite.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    compressor: Any
    sums: dict[str, jax.Array]
    trouble: jax.Array


AUXILIARY = 0.3
"""The weight of the loss of each head beside the first (Szegedy et al., Going deeper with convolutions, 2015)."""


def _impossible(*_: Any) -> Any:
    raise TypeError("this network was made from a trained one: it is not initialized, or does not learn")


class Functions(NamedTuple):
    """A network as the scripts use it, whatever it was made by: a module, a rewrite, a file.

    Attributes:
      infer: ``(variables, images) -> outputs``; ``[batch, height, width, channels]`` uint8 -> what its task asks for,
        of a classifier logits ``[batch, classes]``.
      learn: ``(variables, batch) -> (outputs, new statistics)``, as in training; TypeError where nothing can be learnt.
        A tuple of outputs is those of several heads, of which the first counts in full.
      init: ``(key, images) -> variables``, fresh ones for images of this shape; TypeError where there are none.
    """

    infer: Callable[[Variables, jax.Array], Outputs]
    learn: Callable[[Variables, Batch], tuple[Outputs, Variables]] = _impossible
    init: Callable[[jax.Array, jax.Array], Variables] = _impossible


def classifier(module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> Functions:
    """The functions of a Flax module, which normalize images first.

    Args:
      module: takes ``images, train, valid`` (``train.models``).
      mean: ``[channels]``, of pixels in [0, 1].
      std: likewise.
    """

    def normalized(images: jax.Array) -> jax.Array:
        return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)

    def infer(variables: Variables, images: jax.Array) -> Outputs:
        return module.apply(variables, normalized(images))

    def learn(variables: Variables, batch: Batch) -> tuple[Outputs, Variables]:
        stats = [name for name in variables if name != "params"]
        images, valid = normalized(batch["image"]), batch["valid"]
        return module.apply(variables, images, train=True, valid=valid, mutable=stats)

    def init(key: jax.Array, images: jax.Array) -> Variables:
        return dict(module.init(key, normalized(images)))

    return Functions(infer, learn, init)


def shrunk(
    model: Functions, variables: Variables, batch: Batch, keep: Mapping[str, Any]
) -> tuple[Functions, Variables]:
    """Cuts a model's channels in inference and in training alike; gives the smaller variables too."""
    infer, small = jc.rewrite.shrink(model.infer, variables, batch["image"][:1], keep=keep)
    learn, _ = jc.rewrite.shrink(model.learn, variables, batch, keep=keep)
    return Functions(infer, learn), small


def init_state(variables: Variables, recipe: jc.Compressor, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step. The recipe's state is beside the parameters, never inside them."""
    params = variables["params"]
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    sums = {name: jnp.zeros(()) for name in ("loss", "correct", "examples")}
    trouble = jnp.zeros(1 + len(jax.tree.leaves(params)), jnp.int32)
    compressor = recipe.init(params)
    opt_state = optimizer.init((params, jc.learned(compressor)))
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state, compressor, sums, trouble)


def make_step(
    model: Functions,
    recipe: jc.Compressor,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    *,
    record_every: int,
    axis: str | None = None,
    views: Callable[[jax.Array, Batch], Batch] | None = None,
    penalty: Penalty | None = None,
    task: Task = CLASSIFICATION,
) -> Callable[[TrainState, Any, Batch], TrainState]:
    """Builds ``step(state, frozen, batch) -> state``.

    Args:
      model: what is trained.
      recipe: its compression, seen by the loss through ``recipe.apply``; it is given the gradients at its view, which
        are not 0 where weights are pruned.
      optimizer: any optax transformation, of ``(parameters, what the recipe learns)``.
      loss: ``(outputs, batch, frozen) -> [batch]``; ``frozen`` is what it reads and nobody trains: the teacher.
      record_every: steps after which ``sums`` start anew.
      axis: the pmap axis to sum over; None under jit, where the batch is one array over all devices.
      views: ``(step, batch) -> batch``, what model and teacher see of a batch (``train.common.views``); None: itself.
      penalty: ``(step, parameters, the recipe's state) -> scalar``, beside the loss, which is recorded without it.
      task: says which answers are right.

    Returns:
      The step, for ``jax.jit`` over any mesh, or ``jax.pmap`` with ``axis_name=axis``.
    """

    def over_devices(tree: Any) -> Any:
        return tree if axis is None else jax.lax.psum(tree, axis)

    def step(state: TrainState, frozen: Any, batch: Batch) -> TrainState:
        batch = batch if views is None else views(state.step, batch)
        examples = over_devices(jnp.sum(batch["valid"]))

        def objective(view: Any) -> tuple[jax.Array, Any]:
            given, stats = model.learn({"params": view, **state.stats}, batch)
            outputs, *others = given if isinstance(given, tuple) else (given,)
            lost = loss(outputs, batch, frozen) + AUXILIARY * sum(loss(own, batch, frozen) for own in others)
            total = jnp.sum(lost * batch["valid"]) / examples
            correct = jnp.sum(task.right(outputs, batch) * batch["valid"])
            return total, (stats, correct)

        trained = state.params, jc.learned(state.compressor)
        view, pull_back = jax.vjp(lambda p, v: recipe.apply(p, jc.with_learned(state.compressor, v)), *trained)
        (total, (stats, correct)), at_view = jax.value_and_grad(objective, has_aux=True)(view)
        total, correct, at_view = over_devices((total, correct, at_view))
        slopes = pull_back(at_view)
        if penalty is not None:
            beside = jax.grad(lambda own: penalty(state.step, own[0], jc.with_learned(state.compressor, own[1])))
            slopes = jax.tree.map(jnp.add, slopes, beside(trained))
        updates, opt_state = optimizer.update(slopes, state.opt_state, trained)
        params, learned = optax.apply_updates(trained, updates)
        compressor = jc.with_learned(state.compressor, learned)
        compressor = recipe.update(params, compressor, state.step + 1, grads=at_view)
        now = {"loss": total * examples, "correct": correct, "examples": examples}
        fresh = state.step % record_every == 0
        sums = {name: jnp.where(fresh, 0, state.sums[name]) + value for name, value in now.items()}
        trouble = _first_trouble(state.trouble, state.step, total, params)
        return TrainState(state.step + 1, params, stats, opt_state, compressor, sums, trouble)

    return step


def _first_trouble(trouble: jax.Array, step: jax.Array, loss: jax.Array, params: Any) -> jax.Array:
    finite = jnp.stack([jnp.isfinite(loss), *(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params))])
    return jnp.where((trouble == 0) & ~finite, step + 1, trouble)


def label_loss(task: Task) -> Loss:
    """What a task loses against the labels: how teachers learn."""

    def loss(outputs: Outputs, batch: Batch, frozen: Any) -> jax.Array:
        del frozen
        return task.loss(outputs, batch)

    return loss


hard_loss = label_loss(CLASSIFICATION)
"""Cross-entropy with class labels."""


def distillation_loss(teacher: Functions, temperature: float, alpha: float, task: Task = CLASSIFICATION) -> Loss:
    """Soft targets of a teacher (``frozen`` holds its variables) and hard labels: how students learn.

    ``alpha`` of the one and the rest of the other; at either end the other is not computed: it may be infinite.
    """

    def loss(outputs: Outputs, batch: Batch, frozen: Any) -> jax.Array:
        if not alpha:
            return task.loss(outputs, batch)
        soft = task.soft(outputs, teacher.infer(frozen, batch["image"]), batch, temperature)
        return soft if alpha == 1 else alpha * soft + (1 - alpha) * task.loss(outputs, batch)

    return loss


def make_eval(
    infer: Callable[[Variables, jax.Array], Outputs], task: Task = CLASSIFICATION
) -> Callable[[Variables, jax.Array], jax.Array]:
    """Builds ``evaluate(variables, images) -> the task's answers [batch, ...]``, from what gives outputs."""

    def evaluate(variables: Variables, images: jax.Array) -> jax.Array:
        return task.predict(infer(variables, images), images.shape[1:3])

    return evaluate
