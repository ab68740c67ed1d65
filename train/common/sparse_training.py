"""Sparse training from scratch on one device: an epoch is one compiled scan, and what differs between runs is traced.

A method is a recipe and an optimizer, each a function of :class:`Knobs`: runs to several sparsities share a program.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves, replace_leaves
from train.common.errors import UserError
from train.common.step import Batch, Functions, Loss, Penalty, TrainState, hard_loss, init_state, make_step, on_outputs

KERNELS = ".*/kernel"
RANKED_EVERY = 32  # steps
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Pixels down and right."""
DRAWN = np.array([0, 0, 0, 0, 1, 2, 3, 4])
"""The moves among which one is drawn: half of the images stay where they are."""


class Knobs(NamedTuple):
    """The knobs of a method's runs; traced, so that none is compiled anew.

    Attributes:
      sparsity: the fraction of zeros asked of the kernels together.
      steps: of the whole run.
      learning_rate: Adam's, at its start; it ends at 0 as a half cosine.
      weight_decay: AdamW's, of kernels.
      strength: of the method's own pressure on weights.
      begin, end: the fractions of the run between which sparsity rises.
      start: the sparsity that it rises from.
      first: the step that the learning rate begins with, when weights are rewound to it.
    """

    sparsity: float
    steps: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    strength: float = 0.0
    begin: float = 0.1
    end: float = 0.6
    start: float = 0.0
    first: int = 0


STEEP: dict[str, Any] = {"start": 0.9, "begin": 0.0, "end": 0.3, "learning_rate": 5e-3, "weight_decay": 0.0}
"""The settings of the steep methods; found with LeNet-300-100 at 99 %, on images held out of training."""


class Method(NamedTuple):
    """A way to train a sparse network.

    Attributes:
      recipe: ``knobs -> compressor``.
      optimizer: ``(knobs, recipe) -> optax transformation`` of parameters and what the recipe learns.
      projects: whether pruned weights are set to 0, and begin from there if they come back.
      penalty: ``knobs -> penalty`` of :func:`train.common.step.make_step`; None: there is none.
    """

    recipe: Callable[[Knobs], jc.Compressor]
    optimizer: Callable[[Knobs, jc.Compressor], Any]
    projects: bool = True
    penalty: Callable[[Knobs], Penalty] | None = None


class Data(NamedTuple):
    """Training images on the device: ``[n, height, width, channels]`` uint8, labels ``[n]``, a teacher's logits."""

    images: jax.Array
    labels: jax.Array
    targets: jax.Array


def cosine(knobs: Knobs) -> Callable[[Any], Any]:
    """The learning rate at a step."""

    def at(step: Any) -> Any:
        done = jnp.minimum((step + knobs.first) / knobs.steps, 1)
        return knobs.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return at


def cubic(knobs: Knobs) -> Callable[[Any], Any]:
    """The sparsity at a step: rising ever slower, as Zhu and Gupta (2017) have it."""

    def at(step: Any) -> Any:
        done = jnp.clip((step / knobs.steps - knobs.begin) / (knobs.end - knobs.begin), 0, 1)
        low = jnp.minimum(knobs.start, knobs.sparsity)
        return low + (knobs.sparsity - low) * (1 - (1 - done) ** 3)

    return at


def adamw(knobs: Knobs) -> Any:
    """The optimizer of the parameters; what a recipe learns follows by plain gradient descent, undecayed."""
    return optax.multi_transform(
        {
            "params": optax.chain(
                optax.scale_by_adam(),
                optax.add_decayed_weights(knobs.weight_decay, lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)),
                optax.scale_by_learning_rate(cosine(knobs)),
            ),
            "learned": optax.scale_by_learning_rate(lambda step: 10 * cosine(knobs)(step)),
        },
        ("params", "learned"),
    )


def _only_kernels(transformation: Any) -> Any:
    def chosen(trained: Any) -> Any:
        params, learned = trained
        kernels = {path: path.endswith("kernel") for path in named_leaves(params)}
        return replace_leaves(params, kernels), jax.tree.map(lambda _: False, learned)

    return optax.masked(transformation, chosen)


def sparsity_of(view: Any) -> Any:
    """The fraction of zeros in all kernels together."""
    kernels = [leaf for path, leaf in named_leaves(view).items() if path.endswith("kernel")]
    return sum(jnp.sum(kernel == 0) for kernel in kernels) / sum(kernel.size for kernel in kernels)


def _gradual(knobs: Knobs) -> jc.Compressor:
    return jc.partition([(KERNELS, jc.prune.prune(cubic(knobs), distribution="global", every=RANKED_EVERY))])


def _steep(knobs: Knobs) -> jc.Compressor:
    pruner = jc.prune.prune(cubic(knobs), jc.prune.fisher(4), distribution="global", every=RANKED_EVERY)
    return jc.partition([(KERNELS, pruner)])


def _rigl(knobs: Knobs) -> jc.Compressor:
    drop = lambda step: 0.15 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / (0.75 * knobs.steps), 1)))  # noqa: E731
    pruner = jc.prune.prune(
        lambda step: jnp.asarray(knobs.sparsity, jnp.float32),
        distribution="erk",
        regrow=jc.prune.gradient_growth(drop),
        every=100,
    )
    return jc.partition([(KERNELS, pruner)])


def _removed(knobs: Knobs) -> jc.Compressor:
    """Dense, then at the sparsity from the end of the pressure on."""
    at = lambda step: jnp.where(step >= knobs.end * knobs.steps, knobs.sparsity, 0.0)  # noqa: E731
    return jc.partition([(KERNELS, jc.prune.prune(at, distribution="global", every=RANKED_EVERY))])


def _pressed(knobs: Knobs, recipe: jc.Compressor) -> Any:
    """L1 by proximal steps, until weights are removed."""
    del recipe
    level = lambda step: jnp.where(step < knobs.end * knobs.steps, knobs.strength * cosine(knobs)(step), 0.0)  # noqa: E731
    return optax.chain(adamw(knobs), _only_kernels(jc.prune.proximal_l1(1.0, level)))


def _thresholds(knobs: Knobs) -> jc.Compressor:
    return jc.partition([(KERNELS, jc.prune.learned_threshold(-7.0, shrink=True))])


def _rising_thresholds(knobs: Knobs, recipe: jc.Compressor) -> Any:
    """Decays what thresholds are learned as, as long as fewer weights are 0 than the cubic schedule asks for."""

    def update(updates: Any, step: jax.Array, trained: Any = None) -> Any:
        params, values = trained
        view = recipe.apply(params, jc.with_learned(recipe.init(params), values))
        pace = jnp.where(sparsity_of(view) < cubic(knobs)(step), knobs.strength / knobs.steps, 0.0)
        moves, learned = updates
        return (moves, {path: move - pace * values[path] for path, move in learned.items()}), step + 1

    push = optax.GradientTransformation(lambda trained: jnp.zeros((), jnp.int32), update)
    return optax.chain(adamw(knobs), push)


def standing() -> jc.Compressor:
    """Masks that stand as they are: zeros stay zeros."""
    return jc.Compressor(
        lambda params: jax.tree.map(lambda leaf: leaf != 0, params),
        lambda params, masks, step, **extra: masks,
        lambda params, masks: jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), params, masks),
        kept=lambda params, masks: masks,
    )


def _standing(knobs: Knobs) -> jc.Compressor:
    return jc.partition([(KERNELS, standing())])


def _plain(knobs: Knobs, recipe: jc.Compressor) -> Any:
    del recipe
    return adamw(knobs)


METHODS = {
    "cubic": Method(_gradual, _plain),
    "steep": Method(_steep, _plain),
    "RigL": Method(_rigl, _plain),
    "STR": Method(_thresholds, _rising_thresholds, projects=False),
    "L1": Method(_removed, _pressed),
    "masked": Method(_standing, _plain),
}
"""By name; ``masked`` trains with masks that are handed to it, or with none."""


@functools.cache
def soft_loss(temperature: float) -> Loss:
    """A teacher's outputs, which are known for every image, and labels; the same function at each call."""

    def loss(logits: jax.Array, batch: Batch, frozen: Any) -> jax.Array:
        del frozen
        return jc.distill.soft_and_hard(logits, batch["targets"], batch["label"], temperature=temperature, alpha=0.9)

    return loss


@jax.jit
def moved(images: jax.Array, chosen: jax.Array) -> jax.Array:
    """Images ``[n, height, width, channels]``, each by the move ``chosen`` ``[n]`` of MOVES; what comes in is 0."""
    (height, width), padded = images.shape[1:3], jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for number, (down, right) in enumerate(MOVES):
        other = padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        images = jnp.where((chosen == number)[:, None, None, None], other, images)
    return images


def shifted(data: Data, rng: np.random.Generator, targets: jax.Array | None = None) -> Data:
    """The data with half of the images, drawn at random, moved by a pixel: up, down, left or right.

    Args:
      data: to be moved.
      rng: draws the moves.
      targets: ``[moves, n, classes]``, logits of a teacher that has seen all images by each of MOVES; None: the
        data's own stay as they are.
    """
    chosen = jnp.asarray(DRAWN[rng.integers(len(DRAWN), size=len(data.labels))])
    own = data.targets if targets is None else jnp.take_along_axis(targets, chosen[None, :, None], axis=0)[0]
    return data._replace(images=moved(data.images, chosen), targets=own)


@functools.partial(jax.jit, static_argnames=("method",))
def start(params: Any, knobs: Knobs, method: Method) -> TrainState:
    """The state before the first step."""
    recipe = method.recipe(knobs)
    return init_state({"params": params}, recipe, method.optimizer(knobs, recipe))


@functools.partial(jax.jit, static_argnames=("model", "method", "loss"))
def epoch(
    state: TrainState, knobs: Knobs, data: Data, order: jax.Array, *, model: Functions, method: Method, loss: Loss
) -> TrainState:
    """An epoch: ``order`` ``[steps, batch]`` says which images each step learns from."""
    recipe = method.recipe(knobs)
    penalty = None if method.penalty is None else method.penalty(knobs)
    objective, optimizer = on_outputs(model, loss), method.optimizer(knobs, recipe)
    step = make_step(objective, recipe, optimizer, record_every=order.shape[0], penalty=penalty)

    def body(state: TrainState, chosen: jax.Array) -> tuple[TrainState, None]:
        valid = jnp.ones(chosen.shape, jnp.float32)
        batch = dict(zip(("image", "label", "targets"), (array[chosen] for array in data), strict=True))
        state = step(state, None, {**batch, "valid": valid})
        if method.projects:
            state = state._replace(params=recipe.apply(state.params, state.compressor))
        return state, None

    return jax.lax.scan(body, state, order)[0]


@functools.partial(jax.jit, static_argnames=("method",))
def seen(state: TrainState, knobs: Knobs, method: Method) -> Any:
    """The parameters as the recipe shows them."""
    return method.recipe(knobs).apply(state.params, state.compressor)


def train(params: Any, knobs: Knobs, data: Data, *, method: Method, **how: Any) -> Any:
    """The parameters as the recipe shows them at the end of a run: see :func:`trained`."""
    return seen(trained(params, knobs, data, method=method, **how), knobs, method)


def trained(
    params: Any,
    knobs: Knobs,
    data: Data,
    *,
    model: Functions,
    method: Method,
    batch_size: int,
    seed: int,
    masks: Any = None,
    distil: float | None = None,
    anew: Callable[[Data, np.random.Generator], Data] = lambda data, rng: data,
    each: Callable[[int, Any], None] = lambda number, params: None,
) -> TrainState:
    """Trains to the end of the run.

    Args:
      params: to begin with.
      knobs: of the run.
      data: what is learned from.
      model: what is trained.
      method: how.
      batch_size: images in a step; an epoch is cut into whole batches.
      seed: of the order of images.
      masks: the recipe's state to begin with, if it is not to find its own.
      distil: the temperature at which the teacher's outputs are learned beside the labels; None if they are not.
      anew: makes of the data what an epoch learns from.
      each: is told, after each epoch, its number and the view.

    Returns:
      The state after the last step.

    Raises:
      UserError: for a run too short to rank weights once it is to be as sparse as asked.
    """
    if knobs.sparsity and (1 - knobs.end) * knobs.steps < RANKED_EVERY:
        raise UserError(
            f"weights are ranked every {RANKED_EVERY} steps, so that a run needs {RANKED_EVERY} of them after its "
            f"sparsity is reached, at {knobs.end:.0%}; it has {knobs.steps} in all: train for more epochs"
        )
    state = start(params, knobs, method)
    if masks is not None:
        state = state._replace(compressor=jax.tree.map(jnp.asarray, masks))
    rng, size = np.random.default_rng(seed), len(data.labels)
    count = size // batch_size
    loss = hard_loss if distil is None else soft_loss(distil)
    for number in range(-(-(knobs.steps - knobs.first) // count)):
        order = jnp.asarray(rng.permutation(size)[: count * batch_size].reshape(count, batch_size))
        state = epoch(state, knobs, anew(data, rng), order, model=model, method=method, loss=loss)
        each(number + 1, seen(state, knobs, method))
    return state
