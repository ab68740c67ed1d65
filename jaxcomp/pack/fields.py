"""Integers as bit fields, masks as bits or gaps, items as they are: one-dimensional arrays as streams and back."""

import numpy as np

from jaxcomp.pack.streams import expand, expand_exactly, squeeze

_ESCAPE = 255


def pack_ints(values: np.ndarray) -> tuple[list[int], bytes] | None:
    """Codes integers as bit fields over their least one, of just enough bits or of whole bytes; signs as one bit.

    Args:
      values: ``[n]``, int64.

    Returns:
      ``([least, bits], stream)``, and a step of 2 if they are two values 2 apart; None where
      they span 2**32 or more.

    Example:
      >>> import numpy as np
      >>> pack_ints(np.array([-1, 0, 1, 0]))
      ([-1, 2], b'\\x00d')
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if high - low == 2 and not (values == low + 1).any():  # signs: one bit each
        args, stream = _pack_fields((values - low) // 2, 1)
        return [low, *args, 2], stream
    exact = (high - low).bit_length()
    if exact > 32:
        return None
    args, stream = _pack_fields(values - low, exact)
    return [low, *args], stream


def _pack_fields(values: np.ndarray, exact: int) -> tuple[list[int], bytes]:
    """Non-negative integers of that many bits, in so many or in whole bytes: ``([bits], stream)``."""
    whole = -(-exact // 8) * 8
    fields = values.astype("<u1" if whole <= 8 else "<u4").reshape(-1, 1).view(np.uint8)
    streams = [([whole], squeeze(fields[:, : whole // 8].tobytes(), max(1, whole // 8)))]
    if exact != whole:
        bits = np.unpackbits(fields, axis=1, bitorder="little")[:, :exact]
        streams.append(([exact], squeeze(np.packbits(bits, bitorder="little").tobytes())))
    return min(streams, key=lambda form: len(form[1]))


def unpack_ints(args: list[int], stream: bytes, count: int) -> np.ndarray:
    """The inverse of :func:`pack_ints`: ``count`` integers, int64.

    Raises:
      ValueError: if the stream does not hold that many, or they are no int64.
    """
    low, width, stride = (*args, 1) if len(args) == 2 else args
    if not all(type(number) is int for number in (low, width, stride)) or not 0 <= width <= 32 or stride not in (1, 2):
        raise ValueError(f"integers are stored over the least, in 0 to 32 bits, in steps of 1 or 2, not as {args!r}")
    size = -(-count * width // 8)
    raw = expand_exactly(stream, size, max(1, width // 8) if width % 8 == 0 else 1)
    if width % 8:
        bits = np.unpackbits(raw, count=count * width, bitorder="little").reshape(count, width)
        raw = np.packbits(bits, axis=1, bitorder="little")
    fields = np.zeros((count, 4), np.uint8)
    fields[:, : -(-width // 8)] = raw.reshape(count, -(-width // 8))
    values = fields.view("<u4").reshape(count).astype(np.int64) * stride
    if not (low >= -(2**63) and low + int(values.max(initial=0)) < 2**63):
        raise ValueError(f"integers over {low} are no int64")
    return values + low


def pack_items(values: np.ndarray) -> bytes:
    """Codes the bytes of ``[n]`` items of any dtype.

    Example:
      >>> unpack_items(pack_items(np.arange(3)), 3, np.dtype(int)).tolist()
      [0, 1, 2]
    """
    return squeeze(values.tobytes(), values.itemsize)


def unpack_items(stream: bytes, count: int, dtype: np.dtype) -> np.ndarray:
    """The inverse of :func:`pack_items`: ``count`` items, or a ValueError."""
    return expand_exactly(stream, count * dtype.itemsize, dtype.itemsize).view(dtype)


def pack_mask(mask: np.ndarray) -> tuple[str, bytes]:
    """Codes a mask as packed bits, or as the gaps between its True: whichever is smaller.

    A gap byte below 255 says how many False precede the next True; 255 stands for 255 False and no True.
    At high sparsity the gaps, Huffman-coded by deflate, come near the entropy of the mask; a mask that
    repeats (whole channels) or is half full is smaller as bits.

    Args:
      mask: ``[n]``, bool.

    Returns:
      ``("mask" or "gaps", stream)``.

    Example:
      >>> import numpy as np
      >>> pack_mask(np.arange(2000) == 1500)[0]
      'gaps'
    """
    where = np.flatnonzero(mask)
    runs = np.diff(where, prepend=-1) - 1
    ends = np.cumsum(runs // _ESCAPE + 1) - 1
    gaps = np.full(ends[-1] + 1 if ends.size else 0, _ESCAPE, np.uint8)
    gaps[ends] = runs % _ESCAPE
    forms = [("mask", squeeze(np.packbits(mask).tobytes())), ("gaps", squeeze(gaps.tobytes()))]
    return min(forms, key=lambda form: len(form[1]))


def unpack_mask(kind: str, stream: bytes, size: int) -> np.ndarray:
    """The inverse of :func:`pack_mask`: ``[size]`` bool, or a ValueError."""
    if kind == "mask":
        return np.unpackbits(expand_exactly(stream, -(-size // 8), 1), count=size).astype(bool)
    if kind != "gaps":
        raise ValueError(f"positions are stored as 'mask' or 'gaps', not {kind!r}: the file may be newer")
    steps = np.frombuffer(expand(stream, size), np.uint8).astype(np.int64)
    hits = steps < _ESCAPE
    where = np.cumsum(steps + hits)[hits] - 1
    if (steps.size and not hits[-1]) or (where.size and where[-1] >= size):
        raise ValueError(f"gaps lead beyond the {size} values of the tensor")
    mask = np.zeros(size, bool)
    mask[where] = True
    return mask
