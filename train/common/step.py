"""The training step: distill, prune and fake-quantize in one pure function, whatever the task."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxcomp as jc
from train.models.own import Own, key_of
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
      average: of the variables over steps; ``{}`` where none is kept.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    compressor: Any
    learned: Any
    sums: dict[str, jax.Array]
    trouble: jax.Array
    average: Any


AUXILIARY = 0.3
"""The weight of the loss of each head beside the first (Szegedy et al., Going deeper with convolutions, 2015)."""


def _impossible(*_: Any) -> Any:
    raise TypeError("this network was made from a trained one: it is not initialized, or does not learn")


class Functions(NamedTuple):
    """A network as the scripts use it, whatever it was made by: a module, a rewrite, a file.

    Attributes:
      infer: ``(variables, images) -> outputs``; ``[batch, height, width, channels]`` uint8 -> what its task asks for,
        of a classifier logits ``[batch, classes]``.
      learn: ``(variables, batch) -> (outputs, new statistics)``, as in training; TypeError where nothing learns.
        A tuple of outputs is those of several heads, of which the first counts in full.
      init: ``(key, images) -> variables``, fresh ones for images of this shape; TypeError where there are none.
    """

    infer: Callable[[Variables, jax.Array], Outputs]
    learn: Callable[[Variables, Batch], tuple[Outputs, Variables]] = _impossible
    init: Callable[[jax.Array, jax.Array], Variables] = _impossible


class Objective(NamedTuple):
    """The compression in a step.

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
    """A model's outputs in training, and those of auxiliary heads if it has them."""
    return given if isinstance(given, tuple) else (given,)


def of_heads(given: Any, loss: Callable[[Outputs], jax.Array]) -> jax.Array:
    """A loss of outputs, and AUXILIARY times those of other heads."""
    outputs, *others = heads(given)
    return loss(outputs) + AUXILIARY * sum(map(loss, others))


def network(module: Any, mean: tuple[float, ...], std: tuple[float, ...], dtype: Any = None) -> Functions:
    """The functions of a module, which normalize images first.

    Args:
      module: of Flax, which takes ``images, train, valid`` (``train.models``), or :class:`train.models.own.Own`.
      mean: ``[channels]``, of pixels in [0, 1].
      std: likewise.
      dtype: of what is computed with parameters and images; statistics and outputs are float32. None: float32.
    """

    def normalized(images: jax.Array) -> jax.Array:
        images = (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
        return images if dtype is None else images.astype(dtype)

    def cast(tree: Any, to: Any) -> Any:
        if dtype is None:
            return tree
        return jax.tree.map(lambda x: x.astype(to) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)

    def as_computed(variables: Variables) -> Variables:
        return {**variables, "params": cast(variables["params"], dtype)}

    def infer(variables: Variables, images: jax.Array) -> Outputs:
        return cast(module.apply(as_computed(variables), normalized(images)), jnp.float32)

    def learn(variables: Variables, batch: Batch) -> tuple[Outputs, Variables]:
        stats = [name for name in variables if name != "params"]
        images, valid = normalized(batch["image"]), batch["valid"]
        step, how = batch.get("step", 0), dict[str, Any]()
        if isinstance(module, Own):
            how = {"step": step}
        elif getattr(module, "drop_path", 0):
            how = {"rngs": {"dropout": key_of(step)}}
        given, moved = module.apply(as_computed(variables), images, train=True, valid=valid, mutable=stats, **how)
        return cast(given, jnp.float32), moved

    def init(key: jax.Array, images: jax.Array) -> Variables:
        return dict(module.init(key, normalized(images).astype(jnp.float32)))

    return Functions(infer, learn, init)


def shrunk(
    model: Functions, variables: Variables, batch: Batch, keep: Mapping[str, Any]
) -> tuple[Functions, Variables]:
    """Cuts a model's channels in inference and in training alike; gives the smaller variables too."""
    infer, small = jc.rewrite.shrink(model.infer, variables, batch["image"][:1], keep=keep)
    learn, _ = jc.rewrite.shrink(model.learn, variables, batch, keep=keep)
    return Functions(infer, learn), small


def init_state(
    variables: Variables,
    recipe: jc.Compressor,
    optimizer: optax.GradientTransformation,
    learned: Any = None,
    average: bool = False,
) -> TrainState:
    """The state before the first step. The recipe's state is beside the parameters, never inside them.

    Args:
      variables: of the model.
      recipe: its compression.
      optimizer: of :func:`make_step`.
      learned: what the objective's ``init`` made; None: it learns nothing.
      average: whether the variables' average is kept (``ema`` of the step).
    """
    params, learned = variables["params"], {} if learned is None else learned
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    sums = {name: jnp.zeros(()) for name in ("loss", "correct", "examples")}
    trouble = jnp.zeros(1 + len(jax.tree.leaves(params)), jnp.int32)
    compressor = recipe.init(params)
    opt_state = optimizer.init(_with((params, jc.learned(compressor)), learned))
    kept = jax.tree.map(jnp.copy, dict(variables)) if average else {}
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state, compressor, learned, sums, trouble, kept)


def _with(own: tuple[Any, ...], of_objective: Any) -> tuple[Any, ...]:
    """The values that the optimizer trains: parameters, and what the recipe and the objective learn, if they do."""
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
    parts: int = 1,
    ema: float = 0.0,
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
      parts: in which a batch is computed, one after the other; they divide it. Gradients are those of the whole batch,
        batch statistics those of a part.
      ema: decay of the average of a state that keeps one, less in the first steps: ``(1 + step) / (10 + step)``.

    Returns:
      The step, for ``jax.jit`` over any mesh, or ``jax.pmap`` with ``axis_name=axis``.
    """

    def over_devices(tree: Any) -> Any:
        return tree if axis is None else jax.lax.psum(tree, axis)

    def step(state: TrainState, frozen: Any, batch: Batch) -> TrainState:
        batch = batch if views is None else views(state.step, batch)
        examples = over_devices(jnp.sum(batch["valid"]))

        def minimized(view: Any, learned: Any, stats: Any, batch: Batch) -> tuple[jax.Array, Any]:
            loss, outputs, stats = objective.of(learned, {"params": view, **stats}, batch, frozen)
            total = jnp.sum(loss * batch["valid"]) / examples
            correct = jnp.sum(task.right(outputs, batch) * batch["valid"])
            return total, (stats, correct)

        slope = jax.value_and_grad(minimized, (0, 1), has_aux=True)

        own = state.params, jc.learned(state.compressor)
        view, pull_back = jax.vjp(lambda p, v: recipe.apply(p, jc.with_learned(state.compressor, v)), *own)
        (total, (stats, correct)), grads = in_parts(slope, (view, state.learned), state.stats, batch, state.step, parts)
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
        average = _averaged(state.average, {"params": params, **stats}, state.step, ema)
        return TrainState(state.step + 1, params, stats, opt_state, compressor, learned, sums, trouble, average)

    return step


def in_parts(
    slope: Callable[..., Any], trained: tuple[Any, Any], stats: Any, batch: Batch, step: jax.Array, parts: int
) -> Any:
    """Returns ``slope(*trained, stats, batch)``, ``(total, (stats, correct)), grads``, summed over parts of a batch.

    A part is every so manieth example: where a batch is spread over devices, so are its parts.
    """
    if parts == 1:
        return slope(*trained, stats, {**batch, "step": step})
    split = {key: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1) for key, x in batch.items()}

    def part(carry: Any, own: Any) -> Any:
        stats, total, correct, grads = carry
        number, examples = own
        (loss, (stats, right)), slopes = slope(*trained, stats, {**examples, "step": step * parts + number})
        return (stats, total + loss, correct + right, jax.tree.map(jnp.add, grads, slopes)), None

    zero = jnp.zeros(())
    start = stats, zero, zero, jax.tree.map(jnp.zeros_like, trained)
    (stats, total, correct, grads), _ = jax.lax.scan(part, start, (jnp.arange(parts), split))
    return (total, (stats, correct)), grads


def _averaged(average: Any, now: Any, step: jax.Array, ema: float) -> Any:
    if not average:
        return average
    decay = jnp.minimum(ema, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, new: (decay * mean + (1 - decay) * new).astype(mean.dtype), average, dict(now))


def shown(state: TrainState, recipe: jc.Compressor) -> Variables:
    """The variables that are scored and shipped: averages where they are kept, as the recipe shows them.

    What is pruned is 0 in them, whatever was averaged.
    """
    own = state.average or {"params": state.params, **state.stats}
    return {**own, "params": recipe.apply(own["params"], state.compressor)}


def _first_trouble(trouble: jax.Array, step: jax.Array, loss: jax.Array, params: Any) -> jax.Array:
    finite = jnp.stack([jnp.isfinite(loss), *(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params))])
    return jnp.where((trouble == 0) & ~finite, step + 1, trouble)


def label_loss(task: Task) -> Loss:
    """The loss of a task against the labels: how teachers learn."""

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
