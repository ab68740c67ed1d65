"""Contrastive representation distillation: one example's features belong together, against a memory of all others."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.arrays import check_arrays, check_values
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import automatic
from jaxcomp.core.types import Params, State
from jaxcomp.distill.inputs import feature_pair, mask_of, normalized, rows
from jaxcomp.distill.layers import dense, dense_init


class ContrastiveLoss(NamedTuple):
    """A loss with learned values and a memory beside them.

    Attributes:
      init: ``key -> (values, memory)``: what an optimizer trains, and what the loss itself replaces.
      apply: ``(values, memory, student, teacher, index, negatives, *, where=None) -> (loss, memory)``.
    """

    init: Callable[[Array], tuple[Params, State]]
    apply: Callable[..., tuple[Array, State]]


def crd(
    student_shape: Sequence[int],
    teacher_shape: Sequence[int],
    examples: int,
    *,
    features: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> ContrastiveLoss:
    r"""Tells the pair of student and teacher features of one example from those of different examples.

    Both are flattened, projected to ``features`` numbers and scaled to length 1. A memory holds a running mean of these
    for each training example, of the student (u) and of the teacher (v). An embedding x of the student has the scores
    :math:`P_j = \exp(x \cdot v_j / \tau) / Z` with itself in the memory of the teacher, j = i, and with K negatives;
    the loss is noise-contrastive,
    :math:`-\log \frac{P_i}{P_i + K/n} - \sum_j \log \frac{K/n}{P_j + K/n}`, plus the same of the teacher's embedding in
    the memory of the student. Z is fixed by the first batch, so that P has mean 1/n there.

    ``apply(values, memory, student, teacher, index, negatives, where=None) -> (loss [batch], new memory)``: ``index``,
    ``[batch]`` integers, is each example's place in the training set, ``negatives``, ``[batch, K]``, are the places of
    those that it is told from (:func:`crd_negatives`). Examples that ``where`` or an index outside the set leaves out
    have a loss of 0 and are not remembered. No gradient reaches the teacher or the memory, but the teacher's projection
    is learned. Costs a product of batch x examples x features for each memory.

    Args:
      student_shape: ``[batch, ...]``, of the features: in the paper those before the last layer, averaged.
      teacher_shape: likewise.
      examples: n, how many the training set has.
      features: of the embeddings; the paper has 128.
      temperature: tau, above 0; the paper has 0.07 (0.1 on CIFAR in some of its runs).
      momentum: of the memory, in [0, 1); the paper has 0.5.

    Returns:
      A :class:`ContrastiveLoss`. The paper weighs it by 0.8.

    Raises:
      ArgumentError: for numbers out of range; by ``apply``, for shapes that do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss = crd((4, 8), (4, 16), examples=50, features=3)
      >>> values, memory = loss.init(jax.random.key(0))
      >>> index = jnp.arange(4)
      >>> negatives = crd_negatives(jnp.arange(50) % 10, 5)(jax.random.key(1), index)
      >>> features = jnp.ones((4, 8)), jnp.ones((4, 16))
      >>> value, memory = jax.jit(loss.apply)(values, memory, *features, index, negatives)
      >>> value.shape, memory["student"].shape
      ((4,), (50, 3))

    Reference: Tian, Krishnan and Isola, Contrastive representation distillation, 2020.
    """
    if not temperature > 0 or not 0 <= momentum < 1 or examples < 2 or features < 1:
        raise ArgumentError(
            "crd needs a temperature above 0, a momentum in [0, 1), two examples and one feature or more, got "
            f"{temperature}, {momentum}, {examples} and {features}"
        )
    sizes = [math.prod(int(n) for n in shape[1:]) for shape in (student_shape, teacher_shape)]

    def init(key: Array) -> tuple[Params, State]:
        keys = jax.random.split(key, 4)
        names = ("student", "teacher")
        values = {name: dense_init(k, n, features) for name, k, n in zip(names, keys, sizes, strict=False)}
        bound = math.sqrt(3 / features)
        memory = {
            name: jax.random.uniform(k, (examples, features), jnp.float32, -bound, bound)
            for name, k in zip(names, keys[2:], strict=True)
        }
        return values, memory | {"log_z": jnp.zeros(2, jnp.float32), "begun": jnp.zeros((), bool)}

    def apply(
        values: Params,
        memory: State,
        student: Array,
        teacher: Array,
        index: Array,
        negatives: Array,
        *,
        where: Any = None,
    ) -> tuple[Array, State]:
        student, teacher = feature_pair(student, teacher, where, alike="batch")
        memory = jax.lax.stop_gradient(memory)
        _check(index, negatives, student)
        counts = mask_of(where, student) & (index >= 0) & (index < examples)
        contrast = functools.partial(_contrast, temperature=temperature, momentum=momentum)
        return automatic(contrast, values, memory, rows(student), rows(teacher), index, negatives, counts)

    return ContrastiveLoss(init, apply)


def crd_negatives(labels: Any, count: int = 16384) -> Callable[[Array, Array], Array]:
    """Draws negatives for :func:`crd`: examples of other classes than an example's own, evenly and with repetition.

    Args:
      labels: ``[examples]`` integer classes of the training set. Give ``range(examples)`` where there are none: then
        all other examples are drawn from.
      count: negatives of an example; the paper has 16384.

    Returns:
      ``(key, index) -> [batch, count]`` places in the training set; pure, for use in a jitted step.

    Raises:
      ArgumentError: for a count below 1, labels that are no integers, or of one class.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> draw = crd_negatives(jnp.array([0, 1, 0, 1]), count=6)
      >>> sorted(set(draw(jax.random.key(0), jnp.array([1]))[0].tolist()))
      [0, 2]
    """
    check_values({"labels": labels}, "crd_negatives")
    known, labels = np.asarray(labels), jnp.asarray(labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer) or count < 1:
        raise ArgumentError(
            f"labels must be [examples] integers and count at least 1, got {labels.dtype} of shape {labels.shape} "
            f"and {count}"
        )
    order = jnp.argsort(labels, stable=True).astype(jnp.int32)
    sorted_labels = labels[order]
    # A class is one stretch of this order; drawing from what is left of it and right of it needs no rejection.
    starts, ends = (jnp.searchsorted(sorted_labels, labels, side=side).astype(jnp.int32) for side in ("left", "right"))
    if np.unique(known).size < 2:
        raise ArgumentError("labels must be of two classes or more: there are no negatives")

    def draw(key: Array, index: Array) -> Array:
        start, end = starts[index][:, None], ends[index][:, None]
        place = jax.random.randint(key, (index.shape[0], count), 0, labels.shape[0] - (end - start))
        return order[jnp.where(place < start, place, place + (end - start))]

    return draw


def _check(index: Array, negatives: Array, student: Array) -> None:
    check_arrays(index=index, negatives=negatives)
    batch = student.shape[0]
    shapes = index.shape == (batch,) and negatives.ndim == 2 and negatives.shape[0] == batch and negatives.shape[1] > 0
    if not shapes or not all(jnp.issubdtype(x.dtype, jnp.integer) for x in (index, negatives)):
        raise ArgumentError(
            f"index must be integers of shape ({batch},) and negatives of ({batch}, K), got {index.dtype} of shape "
            f"{index.shape} and {negatives.dtype} of shape {negatives.shape}"
        )


def _contrast(
    values: Params,
    memory: State,
    student: Array,
    teacher: Array,
    index: Array,
    negatives: Array,
    counts: Array,
    *,
    temperature: Any,
    momentum: Any,
) -> tuple[Array, State]:
    examples, drawn = memory["student"].shape[0], negatives.shape[1]
    own = jnp.where(counts, index, 0)
    places = jnp.concatenate([own[:, None], negatives.astype(own.dtype)], axis=1)
    embedded = {name: normalized(dense(values[name], x)) for name, x in (("student", student), ("teacher", teacher))}
    total, log_z = jnp.zeros(student.shape[0], student.dtype), []
    for i, (name, other) in enumerate((("student", "teacher"), ("teacher", "student"))):
        remembered = memory[other].astype(student.dtype)
        scores = jnp.take_along_axis(embedded[name] @ remembered.T, places, axis=1) / temperature
        z = jnp.where(memory["begun"], memory["log_z"][i], jax.lax.stop_gradient(_normalizer(scores, counts, examples)))
        log_z.append(z)
        odds = scores - z.astype(scores.dtype) - math.log(drawn / examples)  # log of P over the noise K / n
        total -= jax.nn.log_sigmoid(odds[:, 0]) + jnp.sum(jax.nn.log_sigmoid(-odds[:, 1:]), axis=1)
    new = {name: _remember(memory[name], embedded[name], own, counts, momentum) for name in embedded}
    begun = memory["begun"] | jnp.any(counts)
    known = jnp.where(begun, jnp.stack(log_z), memory["log_z"]).astype(memory["log_z"].dtype)
    return jnp.where(counts, total, 0), new | {"log_z": known, "begun": begun}


def _normalizer(scores: Array, counts: Array, examples: int) -> Array:
    """The logarithm of Z: n times the mean of the scores' exponentials, of the examples that count."""
    known = jnp.where(counts[:, None], scores, -jnp.inf)
    top = jnp.max(jnp.where(counts[:, None], scores, jnp.finfo(scores.dtype).min))
    total = jnp.sum(jnp.exp(known - top)) / (jnp.maximum(jnp.sum(counts), 1) * scores.shape[1]).astype(scores.dtype)
    return jnp.where(jnp.any(counts), top + jnp.log(total) + math.log(examples), 0)


def _remember(memory: Array, embedded: Array, own: Array, counts: Array, momentum: Any) -> Array:
    moved = momentum * memory[own] + (1 - momentum) * jax.lax.stop_gradient(embedded).astype(memory.dtype)
    place = jnp.where(counts, own, memory.shape[0])  # outside: dropped
    return memory.at[place].set(normalized(moved), mode="drop")
