"""Nibbles: codes of few bits, several to a byte."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.meshes import replicated


def codes_per_byte(bits: int) -> int:
    """Counts the codes that a byte holds: fields of 2, 4 or 8 bits, whatever their codes use of them.

    Example:
      >>> [codes_per_byte(bits) for bits in (2, 3, 4, 5, 8)]
      [4, 2, 2, 1, 1]
    """
    return 4 if bits <= 2 else 2 if bits <= 4 else 1


def to_bytes(codes: Array, bits: int) -> Array:
    """Packs codes into bytes, from the low bits of each to its high ones; the last byte is padded with 0.

    Args:
      codes: ``[...]`` int8, in two's complement of ``bits``.
      bits: 2 to 8.

    Returns:
      ``[bytes]`` uint8.

    Example:
      >>> to_bytes(jnp.array([1, -1, 7], jnp.int8), bits=4).tolist()
      [241, 7]
    """
    count = codes_per_byte(bits)
    flat = lax.bitcast_convert_type(replicated(codes).reshape(-1), jnp.uint8)
    fields = jnp.pad(flat, (0, -flat.size % count)).reshape(-1, count)
    whole = jnp.zeros(len(fields), jnp.uint8)
    for i in range(count):
        whole |= (fields[:, i] & jnp.uint8(2 ** (8 // count) - 1)) << jnp.uint8(i * 8 // count)
    return whole


def from_bytes(whole: Array, bits: int, shape: Sequence[int]) -> Array:
    """Unpacks the codes of :func:`to_bytes`.

    Args:
      whole: ``[bytes]`` uint8.
      bits: 2 to 8.
      shape: of the codes.

    Returns:
      ``[*shape]`` int8.

    Example:
      >>> from_bytes(jnp.array([241, 7], jnp.uint8), bits=4, shape=(3,)).tolist()
      [1, -1, 7]
    """
    count = codes_per_byte(bits)
    width = 8 // count
    # Each field goes to the top of a byte; the shift back down copies its sign.
    tops = jnp.stack([whole << jnp.uint8(8 - (i + 1) * width) for i in range(count)], axis=-1)
    codes = lax.bitcast_convert_type(tops, jnp.int8) >> jnp.int8(8 - width)
    return codes.reshape(-1)[: math.prod(shape)].reshape(shape)
