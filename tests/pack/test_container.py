"""Laws of the file: no damage passes, and a file is written whole or not at all."""

import json
import os
import struct
import zlib

import numpy as np
import pytest

from jaxcomp import pack
from jaxcomp.core.errors import ArgumentError, ArtifactError
from jaxcomp.core.types import Grid, Note
from jaxcomp.pack import container
from jaxcomp.pack.streams import deflate

RNG = np.random.default_rng(0)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.jcz"
    levels = RNG.integers(-7, 8, (3, 5)) * (RNG.random((3, 5)) < 0.5)
    params = {"bias": np.arange(3, dtype=np.float32), "w": levels.astype(np.float32) * np.float32(0.1), "e": {}}
    notes = {"w": Note(grid=Grid(np.float32([[0.1]]), np.int32([[0]])))}
    pack.save(path, params, notes=notes, metadata={"a": 1})
    return path


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=path.name):
        pack.load(path)


def test_a_flipped_bit_in_any_byte_is_told(small):
    data = small.read_bytes()
    # All bits of the lengths and the like, one bit of every other byte.
    for bit in [*range(8 * 24), *(8 * byte + int(RNG.integers(8)) for byte in range(24, len(data)))]:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        refused(small, bytes(changed))


def test_every_truncation_is_told(small):
    data = small.read_bytes()
    for length in range(len(data)):
        refused(small, data[:length])


def test_every_extension_is_told(small):
    data = small.read_bytes()
    for more in (b"\0", b"\n", data):
        refused(small, data + more)


def test_blocks_that_changed_places_are_told(tmp_path):
    path = tmp_path / "x.jcz"
    container.write(path, {}, [container.Block([i], [RNG.bytes(20)]) for i in range(2)])
    data = path.read_bytes()
    path.write_bytes(data[:-44] + data[-24:-4] + data[-44:-24] + data[-4:])
    with pytest.raises(ArtifactError, match="altered"):
        container.read(path)


def test_another_version_and_another_file_are_told_apart(small):
    data = small.read_bytes()
    small.write_bytes(data[:4] + b"\x03" + data[5:])
    with pytest.raises(ArtifactError, match=r"version 3.*upgrade"):
        pack.load(small)
    small.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ArtifactError, match="no jaxcomp artifact"):
        pack.load(small)
    with pytest.raises(FileNotFoundError):
        pack.load(small.with_name("none.jcz"))


def forge(path, header, blocks, claimed=None):
    """A file whose checksums hold, with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    packed = deflate(text)
    size = len(text) if claimed is None else claimed
    parts, crc = [], 0
    for content in (struct.pack("<4sBII", container.MAGIC, 1, len(packed), size) + packed, *map(b"".join, blocks)):
        crc = zlib.crc32(content, crc)
        parts += [content, struct.pack("<I", crc)]
    path.write_bytes(b"".join(parts))


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[]", b"{}", b"[" * 100_000, b'{"blocks": 3}', b'{"blocks": [[]]}', b'{"blocks": [[[-1]]]}']
)
def test_forged_headers_are_artifact_errors(tmp_path, header):
    path = tmp_path / "x.jcz"
    forge(path, header, [])
    with pytest.raises(ArtifactError):
        pack.load(path)


def test_a_header_that_unfolds_beyond_its_recorded_size_is_told(tmp_path):
    path = tmp_path / "x.jcz"
    forge(path, b'{"blocks": []' + b" " * 10**6 + b"}", [], claimed=100)
    with pytest.raises(ArtifactError, match="100 bytes"):
        pack.load(path)


ODD = [None, True, -1, 0, 1, 3, 10**6, 2**70, 0.5, "", "w", "int8", "plain+mask", "codes", [], [0], [[0]], {}, [-1, 40]]


def test_forged_tensors_are_artifact_errors_or_trees(small):
    header, blocks = container.read(small)
    row = [*blocks[1].about, [len(s) for s in blocks[1].streams]]
    outcomes = set()
    for field in range(len(row)):
        for odd in [*ODD, *([part, odd] for part in [0, "w"] for odd in ODD)]:
            forge(small, {**header, "blocks": [[*row[:field], odd, *row[field + 1 :]]]}, [blocks[1].streams])
            try:
                pack.load(small)
                outcomes.add("tree")
            except ArtifactError:
                outcomes.add("refused")
    for odd in ODD:
        for key in ("empty", "metadata", "off_grid"):
            forge(small, {key: odd, "blocks": [row]}, [blocks[1].streams])
            for reader in (pack.load, pack.inspect):
                try:
                    reader(small)
                except ArtifactError:
                    outcomes.add("refused")
    assert outcomes == {"tree", "refused"}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_save_leaves_everything_as_it_was(small, monkeypatch, failing):
    before = small.read_bytes()

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, failing, fail)
    for path in (small, small.with_name("new.jcz")):
        with pytest.raises(OSError, match="no space left"):
            pack.save(path, {"w": np.ones(3)})
    assert small.read_bytes() == before
    assert os.listdir(small.parent) == [small.name]


def test_a_save_replaces_what_was_there_and_leaves_nothing_else(small):
    size = pack.save(str(small), {"w": np.ones(3)})
    assert small.stat().st_size == size
    assert os.listdir(small.parent) == [small.name]
    assert list(pack.load(str(small))[0]) == ["w"]


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(ArgumentError, match=r"no folder .*none"):
        pack.save(tmp_path / "none" / "x.jcz", {})
