"""A short training of a published network that was pruned, cut or rounded: the whole network is its teacher."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import optax

import jaxcomp as jc
from train import evaluate
from train.common import data
from train.common.loop import Phase, fit
from train.common.parallel import data_parallel
from train.common.published import FLIP, SHIFT, Published
from train.common.step import Model, Variables, distillation_loss, init_state, make_step


def add_options(
    parser: argparse.ArgumentParser, *, learning_rate: float, weight_decay: float, record_every: int, what: str
) -> None:
    """The options that say how long, how fast, and from what it learns; the numbers are their defaults."""
    add = parser.add_argument
    add("--steps", type=int, default=200, help=f"of {what}; 0: none")
    add("--learning_rate", type=float, default=learning_rate, help=f"of {what}, at its peak")
    add("--weight_decay", type=float, default=weight_decay, help=f"of {what}, of kernels")
    add("--temperature", type=float, default=4.0, help="of the teacher's softened outputs")
    add("--alpha", type=float, default=0.9, help="weight of the teacher's outputs beside the labels")
    add("--record_every", type=int, default=record_every, help="steps from one record and checkpoint to the next")
    add("--record_test", type=int, default=1000, help="test images that records are scored on; 0: none")


def distilled(
    whole: Published,
    model: Model,
    variables: Variables,
    args: argparse.Namespace,
    *,
    name: str,
    later: int,
    kernels: Callable[[Any], Any] | None = None,
    rate: Callable[[Any], Any] | float | None = None,
    recipe: jc.Compressor | None = None,
    masks: Any = None,
) -> Variables:
    """The variables after ``--steps`` of distillation from the whole network and from the labels.

    Args:
      whole: the teacher, and what is learnt.
      model: what is trained.
      variables: where it begins.
      args: with the options of :func:`add_options`, ``batch_size``, ``seed`` and ``workdir``.
      name: of the phase, under which checkpoints are held; a run that was stopped goes on.
      later: how much later the seed of the images' order and augmentation is than ``--seed``.
      kernels: parameters -> which of them decay; None: those of more than one axis.
      rate: the learning rate; None: a cosine after a warm-up, to 0.
      recipe: whose view is trained; None: the variables themselves.
      masks: the recipe's state to begin with; None: its own.

    Returns:
      Parameters, as the recipe shows them, and statistics; on the device.
    """
    if rate is None:
        rate = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, max(1, args.steps // 20), args.steps)
    recipe = recipe or jc.identity()
    decay = optax.add_decayed_weights(args.weight_decay, mask=kernels or matrices)
    optimizer = optax.chain(decay, optax.sgd(rate, momentum=0.9, nesterov=True))
    every = max(1, min(args.record_every, args.steps))
    loss = distillation_loss(whole.model, args.temperature, args.alpha)
    step = make_step(model, recipe, optimizer, loss, record_every=every)
    start = init_state(variables, recipe, optimizer)
    if masks is not None:
        start = start._replace(compressor=masks)
    phase = Phase(name, args.steps, every, args.batch_size, args.seed + later, SHIFT, FLIP)
    test = whole.dataset.test
    some = data.Split(test.images[: args.record_test], test.labels[: args.record_test])

    def shown(state: Any) -> Variables:
        return {"params": recipe.apply(state.params, state.compressor), **state.stats}

    def score(state: Any) -> dict[str, float]:
        return {"test_accuracy": evaluate.score(model, shown(state), some)["accuracy"]} if len(some) else {}

    parallel = data_parallel("jit")
    state, _ = fit(phase, step, start, whole.variables, whole.dataset, parallel, args.workdir, score)
    return shown(state)


def matrices(params: Any) -> Any:
    """Which parameters are kernels: those of more than one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
