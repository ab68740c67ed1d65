"""Laws of fields: integers and masks come back, near their entropy and never larger than they were."""

import math

import numpy as np
import pytest

from jaxcomp.pack import fields
from jaxcomp.pack.streams import squeeze

RNG = np.random.default_rng(0)


def packed(values):
    """The smallest way to store integers, and its stream."""
    ways = fields.packings(fields.span(values))
    raws = [fields.to_fields(values, way) for way in ways]
    streams = [squeeze(raw.tobytes(), raw.shape[1]) for raw in raws]
    return min(zip(ways, streams, strict=True), key=lambda form: len(form[1]))


def unpacked(way, stream, count):
    held = fields.Integers(way, stream, count)
    first = held.take(count // 3)
    values = np.concatenate([first, held.take(count - count // 3)])
    held.close()
    return values


def masked(mask, kind):
    raw = fields.bits_of(mask) if kind == "mask" else fields.Gaps()(mask)
    return squeeze(raw.tobytes())


def unmasked(kind, stream, size):
    bits, count = fields.unpack_mask(kind, stream, size)
    mask = np.unpackbits(bits, count=size).astype(bool)
    assert count == mask.sum()
    return mask


@pytest.mark.parametrize("width", [*range(18), 24, 31, 32])
def test_integers_come_back_at_every_width(width):
    for count, low in ((1, 0), (2, -5), (1001, -(2**40)), (333, 2**31 - 1), (70_003, 0)):
        values = low + RNG.integers(0, 2**width, count, dtype=np.int64)
        values[0] = low
        values[-1] = low + 2**width - 1
        way, stream = packed(values)
        assert way[0] == values.min()
        np.testing.assert_array_equal(unpacked(way, stream, count), values)
        assert len(stream) <= math.ceil(count * width / 8) + 1


def test_integers_that_span_more_than_32_bits_are_declined():
    assert fields.packings(fields.span(np.array([0, 2**32]))) == []
    assert fields.packings(fields.span(np.array([-(2**63), 2**63 - 1]))) == []
    way, stream = packed(np.zeros(0, np.int64))
    assert unpacked(way, stream, 0).shape == (0,)


@pytest.mark.parametrize("count", [0, 5, 9, 1000])
def test_a_stream_of_another_number_of_integers_is_a_value_error(count):
    way, stream = packed(np.arange(8) * 37)
    with pytest.raises(ValueError, match="stream"):
        unpacked(way, stream, count)


def test_spans_of_parts_make_that_of_the_whole():
    for _ in range(300):
        values = RNG.integers(-1, 2, RNG.integers(1, 6)) * int(RNG.integers(1, 3))
        parts = [fields.span(part) for part in np.split(values, [RNG.integers(len(values) + 1)])]
        first, *others = [part for part in parts if part]
        assert fields.span(values) == (first.joined(*others) if others else first)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("size", [0, 1, 7, 254, 255, 256, 257, 5000])
def test_masks_come_back_at_every_density(size, density):
    mask = RNG.random(size) < density
    for kind in ("mask", "gaps"):
        np.testing.assert_array_equal(unmasked(kind, masked(mask, kind), size), mask)
    assert len(masked(mask, "mask")) <= math.ceil(size / 8) + 1


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 510, 511, 2000])
def test_gaps_of_every_length_come_back_in_pieces(gap):
    mask = np.zeros(70_000, bool)
    mask[gap :: gap + 1] = RNG.random(mask[gap :: gap + 1].size) < 0.02
    mask[gap] = True
    for tail in (gap + 1, mask.size):
        np.testing.assert_array_equal(unmasked("gaps", masked(mask[:tail], "gaps"), tail), mask[:tail])
    gaps = fields.Gaps()
    pieces = [gaps(piece) for piece in np.split(mask, sorted(RNG.integers(0, mask.size, 9)))]
    whole = squeeze(np.concatenate(pieces).tobytes())
    np.testing.assert_array_equal(unmasked("gaps", whole, mask.size), mask)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.5])
def test_masks_come_near_their_entropy(density):
    size = 40_000
    mask = RNG.random(size) < density
    entropy = -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) * size / 8
    assert min(len(masked(mask, kind)) for kind in ("mask", "gaps")) < 1.06 * entropy + 60


@pytest.mark.parametrize("gaps", [b"\xff", b"\x04", b"\x00\x00\x00\x00\x00", b"\xff\x00"])
def test_gaps_that_lead_out_of_the_tensor_are_a_value_error(gaps):
    with pytest.raises(ValueError, match=r"bytes|gaps"):
        fields.unpack_mask("gaps", squeeze(gaps), 4)
