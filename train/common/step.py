"""The training step: distil, prune and fake-quantize in one pure function, whatever the task."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxcomp as jc
from train.models.own import Own
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Batch, Outputs, Task

Variables = dict[str, Any]
Loss = Callable[[Outputs, Batch, Any], jax.Array]
"""``(outputs, batch, frozen) -> [batch]``; ``frozen`` is what it reads and nobody trains: the teacher."""
Penalty = Callable[[jax.Array, Any, Any], jax.Array]


class TrainState(NamedTuple):
    """All that a run must remember, as one pytree of arrays.

    Attributes:
      step: int32, steps made.
      params: the model's parameters, dense and in floating point behind the recipe's view.
      stats: its other variables (``{"batch_stats": ...}``), or ``{}``.
      opt_state: the optimizer's state, of the parameters and of what the recipe learns.
      compressor: the recipe's state, fitted to the parameters as they are: masks, scales, learned thresholds, ...
      learned: what the objective learns: connectors of features; ``{}`` for most.
      sums: loss, right answers and examples since the last record.
      trouble: int32 ``[1 + parameters]``: 0, or 1 + the first step at which the loss, or a parameter, was not finite.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    compressor: Any
    learned: Any
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


class Objective(NamedTuple):
    """What a step makes smaller.

    Attributes:
      of: ``(learned, variables, batch, frozen) -> (loss, outputs, new statistics)``: the loss ``[batch]``, or a scalar
        where it compares the examples that count with each other. ``frozen`` is what it reads and nobody trains.
      init: ``key -> learned``: values of its own, trained beside the parameters and dropped after.
    """

    of: Callable[[Any, Variables, Batch, Any], tuple[jax.Array, Outputs, Variables]]
    init: Callable[[jax.Array], Any] = lambda key: {}


def on_outputs(model: Functions, loss: Loss) -> Objective:
    """A loss of what a model gives, and of its auxiliary outputs."""

    def of(learned: Any, variables: Variables, batch: Batch, frozen: Any) -> tuple[jax.Array, Outputs, Variables]:
        del learned
        given, stats = model.learn(variables, batch)
        return of_heads(given, lambda outputs: loss(outputs, batch, frozen)), heads(given)[0], stats

    return Objective(of)


def heads(given: Any) -> tuple[Outputs, ...]:
    """What a model gives in training: its outputs, and those of auxiliary heads if it has them."""
    return given if isinstance(given, tuple) else (given,)


def of_heads(given: Any, loss: Callable[[Outputs], jax.Array]) -> jax.Array:
    """A loss of outputs, and AUXILIARY times those of other heads."""
    outputs, *others = heads(given)
    return loss(outputs) + AUXILIARY * sum(map(loss, others))


def network(module: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Functions:
    """The functions of a module, which normalize images first.

    Args:
      module: of Flax, which takes ``images, train, valid`` (``train.models``), or :class:`train.models.own.Own`.
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
        how = {"step": batch.get("step", 0)} if isinstance(module, Own) else {}
        return module.apply(variables, images, train=True, valid=valid, mutable=stats, **how)

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


def init_state(
    variables: Variables, recipe: jc.Compressor, optimizer: optax.GradientTransformation, learned: Any = None
) -> TrainState:
    """The state before the first step. The recipe's state is beside the parameters, never inside them.

    Args:
      variables: of the model.
      recipe: its compression.
      optimizer: of :func:`make_step`.
      learned: what the objective's ``init`` made; None: it learns nothing.
    """
    params, learned = variables["params"], {} if learned is None else learned
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    sums = {name: jnp.zeros(()) for name in ("loss", "correct", "examples")}
    trouble = jnp.zeros(1 + len(jax.tree.leaves(params)), jnp.int32)
    compressor = recipe.init(params)
    opt_state = optimizer.init(_with((params, jc.learned(compressor)), learned))
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state, compressor, learned, sums, trouble)


def _with(own: tuple[Any, ...], of_objective: Any) -> tuple[Any, ...]:
    """What the optimizer is given: parameters, what the recipe learns and, if it does, what the objective learns."""
    return (*own, of_objective) if of_objective else own


def make_step(
    objective: Objective,
    recipe: jc.Compressor,
    optimizer: optax.GradientTransformation,
    *,
    record_every: int,
    axis: str | None = None,
    views: Callable[[jax.Array, Batch], Batch] | None = None,
    penalty: Penalty | None = None,
    task: Task = CLASSIFICATION,
) -> Callable[[TrainState, Any, Batch], TrainState]:
    """Builds ``step(state, frozen, batch) -> state``.

    Args:
      objective: what is minimized: :func:`on_outputs`, :func:`train.common.distillation.taught`.
      recipe: the compression of what is trained, seen by the objective through ``recipe.apply``; it is given the
        gradients at its view, which are not 0 where weights are pruned.
      optimizer: any optax transformation, of ``(parameters, what the recipe learns)`` and, third, what the objective
        learns if it does.
      record_every: steps after which ``sums`` start anew.
      axis: the pmap axis to sum over; None under jit, where the batch is one array over all devices. Objectives that
        compare examples compare those of a device.
      views: ``(step, batch) -> batch``, what model and teacher see of a batch (``train.common.views``); None: itself.
      penalty: ``(step, parameters, the recipe's state) -> scalar``, beside the loss, which is recorded without it.
      task: says which answers are right.

    Returns:
      The step, for ``jax.jit`` over any mesh, or ``jax.pmap`` with ``axis_name=axis``.
    """

    def over_devices(tree: Any) -> Any:
        return tree if axis is None else jax.lax.psum(tree, axis)

    def step(state: TrainState, frozen: Any, batch: Batch) -> TrainState:
        batch = {**(batch if views is None else views(state.step, batch)), "step": state.step}
        examples = over_devices(jnp.sum(batch["valid"]))

        def minimized(view: Any, learned: Any) -> tuple[jax.Array, Any]:
            loss, outputs, stats = objective.of(learned, {"params": view, **state.stats}, batch, frozen)
            total = jnp.sum(loss * batch["valid"]) / examples
            correct = jnp.sum(task.right(outputs, batch) * batch["valid"])
            return total, (stats, correct)

        own = state.params, jc.learned(state.compressor)
        view, pull_back = jax.vjp(lambda p, v: recipe.apply(p, jc.with_learned(state.compressor, v)), *own)
        (total, (stats, correct)), grads = jax.value_and_grad(minimized, (0, 1), has_aux=True)(view, state.learned)
        total, correct, (at_view, of_objective) = over_devices((total, correct, grads))
        slopes = pull_back(at_view)
        if penalty is not None:
            beside = jax.grad(lambda own: penalty(state.step, own[0], jc.with_learned(state.compressor, own[1])))
            slopes = jax.tree.map(jnp.add, slopes, beside(own))
        trained = _with(own, state.learned)
        updates, opt_state = optimizer.update(_with(slopes, of_objective), state.opt_state, trained)
        params, of_recipe, *rest = optax.apply_updates(trained, updates)
        compressor = jc.with_learned(state.compressor, of_recipe)
        compressor = recipe.update(params, compressor, state.step + 1, grads=at_view)
        now = {"loss": total * examples, "correct": correct, "examples": examples}
        fresh = state.step % record_every == 0
        sums = {name: jnp.where(fresh, 0, state.sums[name]) + value for name, value in now.items()}
        trouble = _first_trouble(state.trouble, state.step, total, params)
        learned = rest[0] if rest else state.learned
        return TrainState(state.step + 1, params, stats, opt_state, compressor, learned, sums, trouble)

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


def make_eval(
    infer: Callable[[Variables, jax.Array], Outputs], task: Task = CLASSIFICATION
) -> Callable[[Variables, jax.Array], jax.Array]:
    """Builds ``evaluate(variables, images) -> the task's answers [batch, ...]``, from what gives outputs."""

    def evaluate(variables: Variables, images: jax.Array) -> jax.Array:
        return task.predict(infer(variables, images), images.shape[1:3])

    return evaluate
