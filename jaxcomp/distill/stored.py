"""A teacher's answers in few bytes, so that it runs once: the likeliest classes, and how likely each is, in 4 bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.logits import log_probabilities, log_total
from jaxcomp.distill.inputs import check_logits, real_type

BITS = 4
_LEAST = 12.0
LEVELS = -_LEAST * (np.arange(2**BITS) / (2**BITS - 1)) ** 2
"""Levels of log probabilities less the largest, closest together near 0; the last stands for none at all."""
_UNKNOWN, _NOTHING = 0, 1
"""The class that all places name where logits are no numbers, and where they rule all classes out."""


def stored_bytes(classes: int, k: int = 5) -> int:
    """Counts the bytes that :func:`store_labels` needs for an example of ``classes`` classes, the ``k`` largest kept.

    Example:
      >>> stored_bytes(10), stored_bytes(1000)
      (5, 9)
    """
    return -(-k * (_index_bits(classes) + BITS) // 8)


def store_labels(logits: Array, k: int = 5) -> Array:
    r"""Takes the k likeliest classes of each example, and how likely they and the others are.

    Of the likeliest class its index; of each other one its index and 4 bits of :math:`\log p_i - \log p_1`; 4 more bits
    of the probability of all classes that are left. Levels lie closest where classes are about alike, so that a
    probability is off by 0.06 at most, and by less than 0.01 in the mean. Runs inside jit.

    Args:
      logits: ``[..., classes]``, of 2 to 65,536 classes, at temperature 1.
      k: classes to take, from 2 to all.

    Returns:
      ``[..., bytes]`` uint8: :func:`stored_bytes`. Logits that are not all numbers are stored as such.

    Raises:
      ArgumentError: for k or a number of classes out of range.

    Example:
      >>> logits = jnp.log(jnp.array([0.7, 0.2, 0.05, 0.03, 0.02]))
      >>> found = load_labels(store_labels(logits, k=2), classes=5, k=2)
      >>> " ".join(f"{p:.2f}" for p in jnp.exp(found))
      '0.71 0.19 0.03 0.03 0.03'

    Reference: Shen and Xing, A fast knowledge distillation framework for visual recognition (FKD, with marginal
    smoothing), 2022; the levels are ours.
    """
    check_logits(logits)
    classes = logits.shape[-1]
    _check(classes, k)
    log_p = log_probabilities(logits.astype(real_type(logits)))
    top, index = jax.lax.top_k(jnp.where(jnp.isnan(log_p), -jnp.inf, log_p), k)
    left = jnp.put_along_axis(log_p, index, jnp.full(index.shape, -jnp.inf, log_p.dtype), axis=-1, inplace=False)
    beside = jnp.concatenate([top[..., 1:], log_total(left[..., None, :])[..., 0]], -1) - top[..., :1]
    middles = jnp.asarray(-(LEVELS[1:] + LEVELS[:-1]) / 2, beside.dtype)
    codes = jnp.sum((-beside)[..., None] > middles.reshape(*[1] * beside.ndim, -1), axis=-1)
    unknown = jnp.any(jnp.isnan(logits) | jnp.isposinf(logits), axis=-1, keepdims=True)
    index = jnp.where(unknown, _UNKNOWN, jnp.where(jnp.isneginf(top[..., :1]), _NOTHING, index))
    bits = jnp.concatenate([_bits(index, _index_bits(classes)), _bits(codes, BITS)], axis=-1)
    filled = jnp.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 8)])
    return _numbers(filled, 8).astype(jnp.uint8)  # packbits fails where there is no example


def load_labels(stored: Array, classes: int, k: int = 5) -> Array:
    """Decodes the labels of :func:`store_labels` to logits, for any loss at any temperature. Runs inside jit.

    Args:
      stored: ``[..., bytes]`` uint8.
      classes: as of the logits.
      k: as then.

    Returns:
      ``[..., classes]`` float32 log probabilities. The classes that were left share what was left evenly; -inf where
      that was less than a 50,000th of the likeliest class's; NaN where logits were no numbers.

    Raises:
      ArgumentError: for another number of bytes than classes and k make, or bytes of another dtype.

    Example:
      >>> load_labels(store_labels(jnp.array([0.0, 9.0, 0.0]), k=2), classes=3, k=2).argmax().item()
      1
    """
    _check(classes, k)
    check_arrays(stored=stored)
    if stored.dtype != jnp.uint8 or stored.shape[-1:] != (stored_bytes(classes, k),):
        raise ArgumentError(
            f"{k} of {classes} classes are stored in uint8 [..., {stored_bytes(classes, k)}], got {stored.dtype} of "
            f"shape {stored.shape}: give the classes and k of store_labels"
        )
    wide_ = _index_bits(classes)
    bits = _bits(stored, 8)[..., : k * (wide_ + BITS)]
    index, codes = _numbers(bits[..., : k * wide_], wide_), _numbers(bits[..., k * wide_ :], BITS)
    levels = jnp.asarray(np.where(np.arange(len(LEVELS)) < len(LEVELS) - 1, LEVELS, -np.inf), jnp.float32)
    beside = levels[codes]
    share = beside[..., -1:] - jnp.log(jnp.float32(max(classes - k, 1)))
    spread = jnp.broadcast_to(share, (*stored.shape[:-1], classes))
    top = jnp.concatenate([jnp.zeros_like(beside[..., :1]), beside[..., :-1]], axis=-1)
    log_p = log_probabilities(jnp.put_along_axis(spread, index, top, axis=-1, inplace=False))
    told = jnp.all(index == index[..., :1], axis=-1, keepdims=True)
    absent = jnp.where(index[..., :1] == _NOTHING, -jnp.inf, jnp.nan)
    return jnp.where(told, absent, log_p)


def _index_bits(classes: int) -> int:
    return max(1, (classes - 1).bit_length())


def _check(classes: int, k: Any) -> None:
    if not 2 <= classes <= 2**16:
        raise ArgumentError(f"labels of 2 to 65,536 classes can be stored, got {classes}")
    if isinstance(k, bool) or not isinstance(k, int) or not 2 <= k <= classes:
        raise ArgumentError(f"k must be a whole number from 2 to the {classes} classes, got {k!r}")


def _bits(numbers: Array, size: int) -> Array:
    """``[..., n * size]`` uint8 of 0 and 1, the highest bit of each first."""
    shifts = np.arange(size)[::-1].reshape(*[1] * numbers.ndim, -1).astype(np.int32)
    bits = (numbers.astype(jnp.int32)[..., None] >> shifts) & 1
    return bits.astype(jnp.uint8).reshape(*numbers.shape[:-1], numbers.shape[-1] * size)


def _numbers(bits: Array, size: int) -> Array:
    """The inverse: ``[..., n]`` int32."""
    grouped = bits.reshape(*bits.shape[:-1], bits.shape[-1] // size, size).astype(jnp.int32)
    weights = 2 ** np.arange(size)[::-1].astype(np.int32)
    return jnp.sum(grouped * weights.reshape(*[1] * (grouped.ndim - 1), -1), axis=-1)
