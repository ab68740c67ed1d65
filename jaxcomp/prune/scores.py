"""Scores: how much each weight matters. A score is a value, and a new one is a few lines."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import spread_like
from jaxcomp.core.reproducible import rounded
from jaxcomp.core.threshold import itself
from jaxcomp.core.types import Step
from jaxcomp.core.units import unit
from jaxcomp.prune.reconstruct import wanda_scores

Memory = Any
"""A score's memory of one weight tensor from step to step: an array of its shape."""


class Evidence(NamedTuple):
    """The evidence on one weight tensor at one step.

    Attributes:
      path: its path string.
      weight: its values.
      step: the training step.
      grad: the loss's gradient there, if ``update`` was given ``grads=``.
      statistic: from ``update``'s ``statistics=``, for its path.
    """

    path: str
    weight: Array
    step: Step
    grad: Array | None = None
    statistic: Array | None = None

    def slope(self, reader: str) -> Array:
        """Returns weight times gradient, float32 or wider; without one an error names path and ``reader``."""
        grad = self.gradient(reader)
        return self.weight.astype(grad.dtype) * grad

    def gradient(self, reader: str) -> Array:
        """Returns the gradient, float32 or wider; without one an error names path and ``reader``."""
        if self.grad is None:
            raise ArgumentError(
                f"{reader} needs the gradient of {self.path!r}, which update was not given: "
                "call update(params, state, step, grads=grads) with a tree like the parameters"
            )
        if jnp.shape(self.grad) != self.weight.shape:
            raise ArgumentError(
                f"the gradient of {self.path!r} has shape {jnp.shape(self.grad)}, but the weights have "
                f"{self.weight.shape}: give {reader} a tree of gradients like the parameters"
            )
        return spread_like(self.grad.astype(wide(self.weight.dtype)), self.weight)

    def norms(self, reader: str) -> Array:
        """Returns the statistic in the weight's shape; without one an error names path and ``reader``."""
        shape = self.weight.shape
        if self.statistic is None:
            raise ArgumentError(
                f"{reader} needs a statistic of {self.path!r}, which update was not given: "
                "give wanda(norms) or update(params, state, step, statistics=norms) those of its inputs: norms = "
                "jc.observe.input_norms(apply_fn, params, batches)"
            )
        given = jnp.asarray(self.statistic, wide(self.weight.dtype))
        given = given if given.ndim == len(shape) else given[..., None]
        if given.ndim > len(shape) or any(
            a not in (1, b) for a, b in zip(given.shape[::-1], shape[::-1], strict=False)
        ):
            raise ArgumentError(
                f"the statistic of {self.path!r} has shape {jnp.shape(self.statistic)}; for weights of shape {shape} "
                f"{reader} needs one norm an input, {shape[-2:-1]} or {shape[:-1]}, or an array of the weights' rank"
            )
        return spread_like(jnp.broadcast_to(given, shape), self.weight)


class Score(NamedTuple):
    """How weights are ranked: those of higher score are kept.

    Attributes:
      name: for errors.
      rank: ``(evidence, memory) -> array`` of the weight's shape.
      of: elementwise, what ``rank`` returns -> scores: ``jnp.abs`` where the weights themselves can be returned, which
        are then never copied. One function, not a new one at each call.
      init: ``weight -> memory``; None for a score that remembers nothing.
      gather: ``(memory, evidence) -> memory``, at every update. At step 0 it starts afresh.
      needs: ``"grads"`` or ``"statistics"``, what ``update`` must be given; without it ``init`` keeps every weight.

    Example:
      >>> import jaxcomp as jc
      >>> far_from_one = Score("far from one", lambda evidence, memory: jnp.abs(evidence.weight - 1))
      >>> jc.prune.prune(0.5, far_from_one).init(jnp.array([1.0, 0.0, 3.0, 0.5])).tolist()
      [False, True, True, False]
    """

    name: str
    rank: Callable[[Evidence, Memory], Array]
    of: Callable[[Array], Array] = itself
    init: Callable[[Array], Memory] | None = None
    gather: Callable[[Memory, Evidence], Memory] = lambda memory, evidence: memory
    needs: Literal["", "grads", "statistics"] = ""

    def __repr__(self) -> str:
        return f"<Score {self.name}>"


def magnitude_score(order: Literal[1, 2] = 1) -> Score:
    """Scores by :math:`|w|`, or :math:`w^2`, which differ where a pattern sums over units.

    Args:
      order: 1 or 2.

    Raises:
      ArgumentError: for another order.

    Example:
      >>> import jaxcomp as jc
      >>> jc.prune.prune(0.5, magnitude_score(2)).init(jnp.array([1.0, -2.0, 3.0, -4.0])).tolist()
      [False, False, True, True]

    Reference: Han et al., Learning both weights and connections, 2015.
    """
    if order not in (1, 2):
        raise ArgumentError(f"order must be 1 or 2, got {order!r}")
    return Score("magnitude", lambda evidence, memory: evidence.weight, jnp.abs if order == 1 else jnp.square)


def random_score(seed: int = 0) -> Score:
    """Scores by one random order of the weights, the same at every step: masks nest, and follow from seed and path.

    Args:
      seed: another is another order.

    Example:
      >>> import jaxcomp as jc
      >>> int(jc.prune.prune(0.5, random_score(seed=1)).init(jnp.ones(4)).sum())
      2
    """
    return Score("random", lambda evidence, memory: uniform(evidence, seed))


def taylor(order: Literal[1, 2] = 1, decay: float = 0.0) -> Score:
    r"""Scores by :math:`|w g|` or :math:`(w g)^2`: the change of the loss when a weight goes, to first order.

    Args:
      order: 1 or 2.
      decay: of a moving average over updates, :math:`s \leftarrow d s + (1 - d) |w g|`, in [0, 1); 0 remembers nothing.

    Raises:
      ArgumentError: for another order, or a decay outside [0, 1).

    Example:
      >>> import jaxcomp as jc
      >>> w, g = jnp.array([1.0, -2.0, 3.0, -4.0]), jnp.array([4.0, 1.0, -1.0, 0.5])
      >>> pruner = jc.prune.prune(0.5, taylor())
      >>> pruner.update(w, pruner.init(w), 1, grads=g).tolist()
      [True, False, True, False]

    Reference: Molchanov et al., Importance estimation for neural network pruning, 2019.
    """
    if order not in (1, 2) or not 0 <= decay < 1:
        raise ArgumentError(f"taylor needs order 1 or 2 and a decay in [0, 1), got {order!r} and {decay!r}")
    of = jnp.abs if order == 1 else jnp.square
    now = lambda evidence: evidence.slope("the score 'taylor'")  # noqa: E731
    if decay == 0:
        return Score("taylor", lambda evidence, memory: now(evidence), of, needs="grads")

    def gather(memory: Array, evidence: Evidence) -> Array:
        new = jnp.abs(now(evidence))
        if order == 2:
            return jnp.where(evidence.step == 0, new, _root_mean(memory, new, decay))
        return jnp.where(evidence.step == 0, new, rounded(memory * decay) + rounded(new * (1 - decay)))

    return Score("taylor", lambda evidence, memory: memory, itself if order == 1 else of, _zeros, gather, "grads")


def snip() -> Score:
    """Scores by :math:`|w g|` of the first gradients that ``update`` is given (of step 0 above all), for good.

    Example:
      >>> import jaxcomp as jc
      >>> w, g = jnp.array([1.0, -2.0, 3.0, -4.0]), jnp.array([4.0, 1.0, -1.0, 0.5])
      >>> pruner = jc.prune.prune(0.5, snip())
      >>> state = pruner.update(w, pruner.init(w), 1, grads=g)
      >>> pruner.update(w, state, 2, grads=g[::-1]).mask.tolist()  # by the first gradients still
      [True, False, True, False]

    Reference: Lee et al., SNIP: single-shot network pruning based on connection sensitivity, 2019.
    """

    def gather(memory: Array, evidence: Evidence) -> Array:
        new = jnp.abs(evidence.slope("the score 'snip'"))
        return jnp.where((memory < 0) | (evidence.step == 0), new, memory)  # below 0: none was given yet

    return Score("snip", lambda evidence, memory: memory, itself, lambda weight: _zeros(weight) - 1, gather, "grads")


def movement() -> Score:
    r"""Scores by :math:`-\sum_t w_t g_t`, signed: weights that training moves away from zero are kept.

    Example:
      >>> import jaxcomp as jc
      >>> w, g = jnp.array([1.0, -2.0, 3.0, -4.0]), jnp.array([4.0, 1.0, -1.0, 0.5])
      >>> pruner = jc.prune.prune(0.5, movement())
      >>> pruner.update(w, pruner.init(w), 1, grads=g).mask.tolist()
      [False, True, True, False]

    Reference: Sanh et al., Movement pruning: adaptive sparsity by fine-tuning, 2020.
    """

    def gather(memory: Array, evidence: Evidence) -> Array:
        new = rounded(-evidence.slope("the score 'movement'"))
        return jnp.where(evidence.step == 0, new, memory + new)

    return Score("movement", lambda evidence, memory: memory, itself, _zeros, gather, "grads")


def fisher(root: Literal[2, 4] = 2, decay: float = 0.999) -> Score:
    r"""Scores by :math:`|w| \, \sqrt[r]{\overline{g^2}}`; r = 2 ranks as :math:`F w^2`, the loss of pruning a weight.

    F, the diagonal of the Fisher information, is estimated by the squared gradients of batches. For r = 4 this is
    midway to magnitude, which alone leaves too little to the layers next to the output, whose weights are few and
    matter most.

    Args:
      root: r, 2 or 4.
      decay: of the moving average over updates, :math:`s \leftarrow s + (1 - d)(g^2 - s)`, in [0, 1).

    Raises:
      ArgumentError: for another root, or a decay outside [0, 1).

    Example:
      >>> import jaxcomp as jc
      >>> w, g = jnp.array([1.0, -2.0, 3.0, -4.0]), jnp.array([4.0, 1.0, -1.0, 0.5])
      >>> pruner = jc.prune.prune(0.5, fisher())
      >>> pruner.update(w, pruner.init(w), 0, grads=g).mask.tolist()
      [True, False, True, False]

    Reference: LeCun et al., Optimal brain damage, 1990; Singh and Alistarh, WoodFisher, 2020 (its diagonal).
    """
    if root not in (2, 4) or not 0 <= decay < 1:
        raise ArgumentError(f"fisher needs root 2 or 4 and a decay in [0, 1), got {root!r} and {decay!r}")

    def gather(memory: Array, evidence: Evidence) -> Array:
        size = jnp.abs(evidence.gradient("the score 'fisher'"))
        return jnp.where(evidence.step == 0, size, _root_mean(memory, size, decay))

    def rank(evidence: Evidence, memory: Array) -> Array:
        return jnp.abs(evidence.weight) * (memory if root == 2 else jnp.sqrt(memory))

    return Score("fisher", rank, itself, _zeros, gather, "grads")


def wanda(norms: Mapping[str, Any] | None = None) -> Score:
    r"""Scores by :math:`|w_{ij}| \cdot \lVert x_i \rVert_2`: magnitude times the norm of the input that a weight reads.

    The paper prunes every output alike: ``prune(0.5, wanda(norms), distribution="per_output")``, which is what
    :func:`jaxcomp.posttrain.sparsify` does on the inputs of the dense network.

    Args:
      norms: ``{path: norms}``, as :func:`jaxcomp.observe.input_norms` finds them: of shape ``[in]`` for a matrix ``[in,
        out]`` and ``[in]`` or ``[h, w, in]`` for a convolution's kernel ``[h, w, in, out]``, or of the kernel's rank;
        None: those that ``update(..., statistics=)`` is given.

    Example:
      >>> import jaxcomp as jc
      >>> pruner, params = jc.prune.prune(1 / 3, wanda()), {"w": jnp.array([[4.0], [3.0], [2.0]])}
      >>> state = pruner.update(params, pruner.init(params), 1, statistics={"w": jnp.array([1.0, 1.0, 9.0])})
      >>> state["w"].ravel().tolist()
      [True, False, True]

    Reference: Sun et al., A simple and effective pruning approach for large language models, 2024.
    """

    def rank(evidence: Evidence, memory: Memory) -> Array:
        own = evidence if norms is None else evidence._replace(statistic=norms.get(evidence.path))
        return wanda_scores(evidence.weight, own.norms("the score 'wanda'"))

    return Score("wanda", rank, needs="statistics" if norms is None else "")


SCORES: dict[str, Callable[[], Score]] = {
    "magnitude": magnitude_score,
    "random": random_score,
    "taylor": taylor,
    "snip": snip,
    "movement": movement,
    "fisher": fisher,
    "wanda": wanda,
}
"""Scores by name."""


def uniform(evidence: Evidence, seed: int, *more: Any) -> Array:
    """Draws random numbers in [0, 1) of the weight's shape.

    Args:
      evidence: of the weight, whose path they follow from.
      seed: they follow from.
      *more: integers that they follow from, which may be traced.
    """
    key = jax.random.key(seed)
    for number in (zlib.crc32(evidence.path.encode()), *more):
        key = jax.random.fold_in(key, number)
    return spread_like(jax.random.uniform(key, evidence.weight.shape, jnp.float32), evidence.weight)


def _root_mean(held: Array, new: Array, decay: float) -> Array:
    r""":math:`\sqrt{d h^2 + (1 - d) n^2}`, in a unit: squares of 1e-20 are 0 in float32, of 1e20 infinite."""
    size = unit(jnp.maximum(held, new))
    squares = [rounded(jnp.square(each / size)) for each in (held, new)]
    return size * jnp.sqrt(squares[0] + rounded((1 - decay) * (squares[1] - squares[0])))


def _zeros(weight: Array) -> Array:
    return jnp.zeros_like(weight, wide(weight.dtype))
