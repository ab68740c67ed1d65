"""Laws of fields: integers, masks and items come back, near their entropy and never larger than they were."""

import math

import numpy as np
import pytest

from jaxcomp.pack import fields
from jaxcomp.pack.streams import squeeze

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("width", [*range(18), 24, 31, 32])
def test_integers_come_back_at_every_width(width):
    for count, low in ((1, 0), (2, -5), (1001, -(2**40)), (333, 2**31 - 1)):
        values = low + RNG.integers(0, 2**width, count, dtype=np.int64)
        values[0] = low
        values[-1] = low + 2**width - 1
        args, stream = fields.pack_ints(values)
        assert args[0] == values.min()
        np.testing.assert_array_equal(fields.unpack_ints(args, stream, count), values)
        assert len(stream) <= math.ceil(count * width / 8) + 1


def test_integers_that_span_more_than_32_bits_are_declined():
    assert fields.pack_ints(np.array([0, 2**32])) is None
    assert fields.pack_ints(np.array([-(2**63), 2**63 - 1])) is None
    args, stream = fields.pack_ints(np.zeros(0, np.int64))
    assert fields.unpack_ints(args, stream, 0).shape == (0,)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("size", [0, 1, 7, 254, 255, 256, 257, 5000])
def test_masks_come_back_at_every_density(size, density):
    mask = RNG.random(size) < density
    kind, stream = fields.pack_mask(mask)
    np.testing.assert_array_equal(fields.unpack_mask(kind, stream, size), mask)
    assert len(stream) <= math.ceil(size / 8) + 1


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 510, 511, 2000])
def test_gaps_of_every_length_come_back(gap):
    mask = np.zeros(70_000, bool)
    mask[gap :: gap + 1] = RNG.random(mask[gap :: gap + 1].size) < 0.02
    mask[gap] = True
    for tail in (gap + 1, mask.size):
        kind, stream = fields.pack_mask(mask[:tail])
        np.testing.assert_array_equal(fields.unpack_mask(kind, stream, tail), mask[:tail])


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.5])
def test_masks_come_near_their_entropy(density):
    size = 40_000
    kind, stream = fields.pack_mask(RNG.random(size) < density)
    entropy = -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) * size / 8
    assert len(stream) < 1.06 * entropy + 60, kind


@pytest.mark.parametrize("gaps", [b"\xff", b"\x04", b"\x00\x00\x00\x00\x00", b"\xff\x00"])
def test_gaps_that_lead_out_of_the_tensor_are_a_value_error(gaps):
    with pytest.raises(ValueError, match=r"bytes|gaps"):
        fields.unpack_mask("gaps", squeeze(gaps), 4)
