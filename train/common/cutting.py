"""Cutting channels out of a trained network, whatever its task: what ranks them, and what is left to be trained."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxcomp as jc
from train.common import hosts
from train.common.step import Functions, Variables, shrunk
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Batch, Task

MAXIMUM = 0.9
"""No group loses more than this fraction of its channels."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(model: Functions, task: Task, variables: Variables, batch: Batch) -> Any:
    def loss(params: Any) -> jax.Array:
        given, _ = model.learn({**variables, "params": params}, batch)
        outputs = given[0] if isinstance(given, tuple) else given
        return jnp.mean(task.loss(outputs, batch))

    return {"params": jax.grad(loss)(variables["params"])}


def loss_gradients(
    model: Functions, variables: Variables, some: Iterable[Batch], task: Task = CLASSIFICATION
) -> Iterator[Any]:
    """Gradients of the task's mean loss, a tree a batch, in training mode."""
    return (_gradient(model, task, variables, batch) for batch in some)


def cut(
    model: Functions, variables: Variables, some: list[Batch], task: Task, macs: float, path: Path
) -> tuple[Functions, Variables]:
    """Cuts the channels whose loss costs least for the multiply-accumulates that they take.

    Args:
      model: what is cut.
      variables: trained.
      some: batches by whose gradients channels are ranked (Taylor, squared).
      task: whose loss counts.
      macs: the fraction of the multiply-accumulates that may be left.
      path: a file that holds what is left, so that a run that goes on cuts the same channels.

    Returns:
      The small network, in inference and in training, and its variables.

    Raises:
      ArgumentError: if no choice of channels leaves so little.
    """
    with hosts.together("cut") as first:
        if first and not path.exists():
            _choose(model, variables, some, task, macs, path)
    hosts.give(path)
    saved, _ = jc.pack.load(path)
    return shrunk(model, variables, some[0], saved["keep"])


def _choose(model: Functions, variables: Variables, some: list[Batch], task: Task, macs: float, path: Path) -> None:
    found = jc.trace.groups(model.infer, variables, some[0]["image"][:1])
    grads = loss_gradients(model, variables, some, task)
    how: dict[str, Any] = {"scope": "global", "per": "macs", "maximum": MAXIMUM, "combine": "joint"}
    keep = jc.rewrite.choose(score="taylor_squared", macs=macs, grads=grads, **how)(found, variables)
    jc.pack.save(path, {"keep": dict(keep)})
