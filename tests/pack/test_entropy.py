"""Laws of the range coder: codes come back, at their tables' length, and no altered stream does more than fail."""

import contextlib
import sys
import time

import numpy as np
import pytest

from jaxcomp import pack
from jaxcomp.core.errors import ArgumentError, ArtifactError, MissingExtraError
from jaxcomp.core.types import Grid, Note
from jaxcomp.pack import bits, coding, container, entropy
from jaxcomp.quant.nibbles import to_bytes

pytest.importorskip("constriction")
RNG = np.random.default_rng(0)


def numbers_of(codes):
    return entropy.Numbers(int(codes.min()), int(codes.max()), int(16 * np.abs(codes).mean()) + 1)


def there_and_back(codes):
    numbers, stream = entropy.encode(codes.shape, codes.reshape(-1).__getitem__, numbers_of(codes))
    again = np.full(codes.size, 10**6)
    for positions, found in entropy.decode(stream, codes.shape, entropy.Numbers.checked(numbers.stored)):
        again[positions] = found
    np.testing.assert_array_equal(again, codes.reshape(-1))
    return numbers, stream


@pytest.mark.parametrize("high", [1, 2, 15, 255, 1022])
@pytest.mark.parametrize("shape", [(2,), (999,), (40, 50), (3, 3, 8, 16), (2, 500)], ids=str)
def test_codes_come_back_at_the_length_of_their_tables(shape, high):
    codes = RNG.binomial(high, 0.4, shape) - high // 2
    codes.reshape(-1)[:2] = [-(high // 2), high - high // 2]
    numbers, stream = there_and_back(codes)
    ideal = entropy.ideal_bytes(shape, codes.reshape(-1).__getitem__, numbers)
    assert len(stream) <= 1.001 * ideal + 8


def test_a_stream_in_parts(monkeypatch):
    monkeypatch.setattr(entropy, "_PART", 1000)
    codes = RNG.integers(-3, 4, (70, 80))
    numbers, stream = there_and_back(codes)
    assert len(numbers.ends) > 2
    for wrong in (numbers._replace(ends=numbers.ends[1:]), numbers._replace(ends=(*numbers.ends, 3))):
        with pytest.raises(ValueError, match="stream"):
            list(entropy.decode(stream, codes.shape, wrong))


def test_ten_thousand_altered_streams_end_in_an_error_or_in_codes_of_the_range():
    codes = RNG.integers(-2, 3, 200)
    numbers, stream = there_and_back(codes)
    began, refused = time.process_time(), 0
    for turn in range(10_000):
        changed = bytearray(stream)
        if turn % 3:
            changed[RNG.integers(len(changed))] ^= int(RNG.integers(1, 256))
        if turn % 3 != 1:
            changed = changed[: RNG.integers(len(changed) + 1)] + RNG.bytes(int(RNG.integers(3)))
        try:
            for _, found in entropy.decode(changed, codes.shape, numbers):
                assert -2 <= found.min() <= found.max() <= 2
        except ValueError:
            refused += 1
    assert refused
    assert time.process_time() - began < 120


def test_every_altered_file_is_an_error(tmp_path):
    path = tmp_path / "m.jcz"
    pack.save(path, {"w": RNG.integers(-2, 3, (20, 60)).astype(np.int8)}, coder="range")
    assert pack.inspect(path).tensors[0].kind == "ints+range"
    data = path.read_bytes()
    for turn in range(500):
        changed = bytearray(data)
        changed[RNG.integers(len(data))] ^= int(RNG.integers(1, 256))
        path.write_bytes(changed if turn % 2 else data[: RNG.integers(len(data))])
        with pytest.raises(ArtifactError, match=r"m\.jcz"):
            pack.load(path)


TREE = {
    "codes": RNG.integers(-1, 2, (64, 32)).astype(np.float32) * np.float32(0.1),
    "sparse": (RNG.normal(size=(64, 32)) * (RNG.random((64, 32)) < np.linspace(0, 1, 32))).astype(np.float32),
    "whole": RNG.integers(-3, 4, (64, 32)).astype(np.int8),
    "fields": np.asarray(to_bytes(np.clip(np.rint(RNG.normal(size=(65, 33))), -2, 1).astype(np.int8), 2)),
}


def test_what_is_range_coded_is_smaller_and_names_its_coder(tmp_path, monkeypatch):
    path, notes = tmp_path / "m.jcz", {"codes": Note(grid=Grid(np.float32([[0.1]]), np.int32([[0]])))}
    monkeypatch.setattr("jaxcomp.pack.layout.bit_fields", lambda tree: {"fields": (2, (65, 33))})
    sizes = {coder: pack.save(path, TREE, notes=notes, coder=coder) for coder in ("deflate", "auto", "range")}
    assert sizes["range"] == sizes["auto"] < sizes["deflate"]
    kinds = {row.path: row.kind for row in pack.inspect(path).tensors}
    assert kinds == {
        "codes": "codes+range", "sparse": "plain+pattern", "whole": "ints+range", "fields": "fields+range",
    }  # fmt: skip
    loaded, _ = pack.load(path)
    assert all(loaded[name].tobytes() == array.tobytes() for name, array in TREE.items())
    assert container.read(path)[0]["coder"] == "range2"


def test_without_the_extra_files_say_which_one_and_saving_deflates(tmp_path, monkeypatch):
    path = tmp_path / "m.jcz"
    pack.save(path, TREE)
    monkeypatch.setitem(sys.modules, "constriction", None)
    monkeypatch.setattr(entropy, "installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"m\.jcz.*jaxcomp\[pack\]"):
        pack.load(path)
    assert pack.inspect(path).tensors
    with pytest.raises(MissingExtraError, match=r"jaxcomp\[pack\]"):
        pack.save(path, TREE, coder="range")
    pack.save(path, TREE)
    assert pack.load(path)[0]["whole"].tobytes() == TREE["whole"].tobytes()
    assert "coder" not in container.read(path)[0]


def test_another_coder_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="coder must be"):
        pack.save(tmp_path / "m.jcz", TREE, coder="zip")
    pack.save(tmp_path / "m.jcz", {"a": TREE["whole"]})
    header, blocks = container.read(tmp_path / "m.jcz")
    rows = [block.about for block in blocks]
    assert rows[0][3] == "ints+range"
    bare = {key: value for key, value in header.items() if key not in ("coder", "blocks")}
    for wrong in ({"coder": "other"}, {"coder": 3}, {"coder": None}, {}):
        container.write(tmp_path / "x.jcz", bare | wrong, blocks)
        with pytest.raises(ArtifactError, match="coder"):
            pack.load(tmp_path / "x.jcz")


ODD = [[], [0], [0, 1], [1, 0, 3], [0, 0, 1], [0, 5000, 1], [-(2**40), 0, 1], [0, 1, -1], [0, 1, 2**70], [0.0, 1, 1]]
ODD += [[True, 1, 1], ["a", 1, 1], None, 3, [0, 1, 1, -1], [0, 1, 1, 2**50], [-3, 3, 40, 0, 0, 0], [200, 300, 3]]


@pytest.mark.parametrize("kind", ["ints+range", "plain+pattern", "fields+range", "codes+range"])
@pytest.mark.parametrize("odd", ODD, ids=str)
def test_forged_numbers_are_artifact_errors_or_trees(tmp_path, odd, kind):
    coded = coding.encode(TREE["whole"], ranges=True)
    about = [["a"], [64, 32], "int8", kind, [odd]]
    container.write(tmp_path / "x.jcz", {"coder": "range2"}, [container.Block(about, coded.streams)])
    with contextlib.suppress(ArtifactError):
        pack.load(tmp_path / "x.jcz")


@pytest.mark.parametrize(
    "own", [(3, [4]), (2, [0]), (2, [-4]), (2, 8), (True, [4]), (2, [2**70]), ("2", [4]), (2, [4.0])]
)
def test_forged_fields_are_value_errors(own):
    with pytest.raises(ValueError, match="codes"):
        bits.BitFields(*own).place(np.zeros(2, np.uint8), iter([]), -2, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 1001])
@pytest.mark.parametrize("width", [2, 4])
def test_codes_that_share_bytes_come_apart_and_together(width, count):
    codes = RNG.integers(-(2 ** (width - 1)), 2 ** (width - 1), count).astype(np.int8)
    flat = np.asarray(to_bytes(codes, width))
    apart = bits.BitFields.of(flat, (width, (count,)))
    np.testing.assert_array_equal(apart.codes(flat, np.arange(count)), codes)
    assert apart.ends(flat) == (codes.min(), codes.max())
    again = np.zeros_like(flat)
    apart.place(again, iter([(np.arange(count), codes.astype(np.int64))]), -(2 ** (width - 1)), 2 ** (width - 1) - 1)
    np.testing.assert_array_equal(again, flat)
    other = flat.copy()
    other[-1] |= 0x80 if count * width % 8 else 0
    assert (bits.BitFields.of(other, (width, (count,))) is None) == (count * width % 8 != 0)
