"""Laws of streams: what goes in comes out, nothing grows, and no forged stream gives more than it should."""

import numpy as np
import pytest

from jaxcomp.pack import streams

RNG = np.random.default_rng(0)
BYTES = {
    "none": b"",
    "one": b"\x07",
    "zeros": bytes(4096),
    "noise": RNG.bytes(4096),
    "period": RNG.bytes(24) * 100,
    "floats": RNG.normal(size=8192).astype(np.float32).tobytes(),
    "large": RNG.integers(0, 9, (1 << 20) + 24, np.uint8).tobytes(),
}


@pytest.mark.parametrize("itemsize", [1, 3, 8])
@pytest.mark.parametrize("raw", BYTES.values(), ids=BYTES.keys())
def test_squeeze_is_undone_by_expand_and_adds_at_most_a_byte(raw, itemsize):
    raw = raw[: len(raw) // itemsize * itemsize]
    stream = streams.squeeze(raw, itemsize)
    assert streams.expand(stream, len(raw), itemsize) == raw
    assert len(stream) <= len(raw) + 1


def test_floats_are_smaller_in_planes():
    assert len(streams.squeeze(BYTES["floats"], 4)) < 0.95 * len(streams.squeeze(BYTES["floats"], 1))


@pytest.mark.parametrize("name", ["noise", "zeros", "one"])
def test_a_stream_gives_no_more_than_its_limit(name):
    stream = streams.squeeze(BYTES[name])
    with pytest.raises(ValueError, match="bytes"):
        streams.expand(stream, len(BYTES[name]) - 1)


@pytest.mark.parametrize("stream", [b"", b"\x03abc", b"\x01", b"\x01\xff\xff", b"\x02" + bytes(9)])
def test_what_is_no_stream_is_a_value_error(stream):
    with pytest.raises(ValueError, match="stream"):
        streams.expand(stream, 1000, 4)


def test_a_deflated_stream_must_end_where_it_ends():
    whole = streams.squeeze(bytes(1000))
    for wrong in (whole[:-1], whole + b"\0"):
        with pytest.raises(ValueError, match="stream"):
            streams.expand(wrong, 1000)
