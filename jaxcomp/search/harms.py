"""Harms: how far a function's outputs are from what they were, whatever their types and structure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import not_a_number
from jaxcomp.core.leaves import is_key, wide
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.units import common_unit

Harm = Callable[[Any, Any], Any]
"""``(outputs before, outputs after) -> scalar``."""


def divergence(before: Any, after: Any) -> Any:
    r"""Computes the mean :math:`\mathrm{KL}(p \| q)` of softmaxes of logits ``[..., classes]``, the only output.

    A class that is ruled out before (a logit of -inf) adds nothing; where only the outputs after rule one out, or are
    NaN, the harm is infinite.

    Args:
      before: the outputs of the original function.
      after: likewise, of the compressed one.
    """
    pair = [_logits(leaf) for tree in (before, after) for leaf in jax.tree.leaves(tree)]
    p, q = (jax.nn.log_softmax(logits, axis=-1) for logits in pair)
    ruled_out = jnp.isneginf(p)
    terms = jnp.where(ruled_out, 0, jnp.exp(p) * (jnp.where(ruled_out, 0, p) - q))
    same = jnp.all(pair[0] == pair[1], axis=-1)
    return _worst(jnp.mean(jnp.where(same, 0, jnp.sum(terms, axis=-1))))


def squared_error(before: Any, after: Any) -> Any:
    """Computes the squared differences of all outputs over their squares, of any dtypes and in any unit.

    Infinities that stay what they were are no harm, and count for nothing; others harm without limit, as does any
    difference of outputs that were all 0.

    Args:
      before: the outputs of the original function, a tree of arrays.
      after: likewise, of the compressed one.
    """
    sides = [[_plain(leaf) for leaf in jax.tree.leaves(tree)] for tree in (before, after)]
    pairs = list(zip(*sides, strict=True))
    real = wide(*(_real(leaf.dtype) for leaf, _ in pairs))
    sizes, gaps = [_size(leaf) for leaf, _ in pairs], [_gap(*pair) for pair in pairs]
    sizes_unit, gaps_unit = (common_unit(jnp.max(x, initial=0).astype(real) for x in own) for own in (sizes, gaps))
    nothing = jnp.all(jnp.stack([jnp.all(size == 0) for size in sizes]))
    unit = jnp.where(nothing, gaps_unit, sizes_unit)
    lost, whole = (
        sum((jnp.sum(jnp.square(each / unit.astype(each.dtype))).astype(real) for each in own), jnp.zeros((), real))
        for own in (gaps, sizes)
    )
    return _worst(jnp.where(lost > 0, lost / whole, 0))


HARMS: dict[str, Harm] = {"kl": divergence, "error": squared_error}


def usual_harm(outputs: Any) -> str:
    """Chooses the measure for outputs of these shapes: ``"kl"`` for one array of logits, else ``"error"``."""
    leaves = jax.tree.leaves(outputs)
    return "kl" if len(leaves) == 1 and leaves[0].ndim and jnp.issubdtype(leaves[0].dtype, jnp.floating) else "error"


def check_outputs(outputs: Any, measure: Harm) -> None:
    """Refuses outputs of the original function that nothing can be compared with by ``measure``.

    Raises:
      ArgumentError: for NaN, with the output's path and how many there are; for a divergence, for what is no logits.
    """
    for path, leaf in named_leaves(outputs).items():
        lost = not_a_number(leaf)
        if lost:
            raise ArgumentError(
                f"apply_fn's output {path!r} holds NaN in {lost:,} of {np.size(leaf):,} numbers with the parameters as "
                "they are: no harm can be measured. Mend the parameters, or give batches that have none"
            )
    if measure is divergence:
        leaves = jax.tree.leaves(outputs)
        if len(leaves) != 1 or not np.ndim(leaves[0]) or jnp.issubdtype(leaves[0].dtype, jnp.complexfloating):
            given = [f"{leaf.dtype} {np.shape(leaf)}" for leaf in leaves]
            raise ArgumentError(
                'harm="kl" compares one array of logits [..., classes]: give harm="error", or a function of the '
                f"outputs; apply_fn returns {', '.join(given) or 'nothing'}"
            )


def _real(dtype: Any) -> Any:
    """The type that numbers of a type are compared in."""
    wide = jnp.issubdtype(dtype, jnp.complexfloating) and dtype.itemsize == 16
    return jnp.float64 if wide or (dtype.itemsize == 8 and dtype != jnp.complex64) else jnp.float32


def _logits(leaf: Any) -> Any:
    """In a floating-point type; of a logit of +inf, what its softmax tends to."""
    logits = jnp.asarray(leaf).astype(_real(leaf.dtype))
    top = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.where(jnp.isposinf(top), jnp.where(logits == top, 0, -jnp.inf).astype(logits.dtype), logits)


def _size(leaf: Any) -> Any:
    """The absolute value, 0 where it is infinite."""
    size = jnp.abs(leaf if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else leaf.astype(_real(leaf.dtype)))
    return jnp.where(jnp.isfinite(size), size, 0)


def _gap(before: Any, after: Any) -> Any:
    """The size of the difference, of integers exact before it is rounded; 0 where they are the same."""
    real = _real(before.dtype)
    if jnp.issubdtype(before.dtype, jnp.integer):
        high, low = jnp.maximum(before, after), jnp.minimum(before, after)
        unsigned = jnp.dtype(f"uint{8 * before.dtype.itemsize}")
        bits = [jax.lax.bitcast_convert_type(end, unsigned) for end in (high, low)]
        return (bits[0] - bits[1]).astype(real)
    if not jnp.issubdtype(before.dtype, jnp.complexfloating):
        before, after = before.astype(real), after.astype(real)
    gap = jnp.abs(jnp.where(before == after, 0, before - after)).astype(real)
    return jnp.where(jnp.isnan(gap), jnp.inf, gap)


def _plain(leaf: Any) -> Any:
    """Random keys by their bits, and truth values and short integers in 32 bits."""
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    leaf = jnp.asarray(leaf)
    short = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.dtype.itemsize < 4
    return leaf.astype(jnp.int32) if short or leaf.dtype == jnp.bool_ else leaf


def _worst(harm: Any) -> Any:
    return jnp.where(jnp.isnan(harm), jnp.inf, harm)
