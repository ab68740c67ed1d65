"""Rows of a header: what goes in comes out, in few bytes; altered bytes are an error or other rows, not worse."""

import contextlib
import json
import tracemalloc

import numpy as np
import pytest

from jaxcomp import pack
from jaxcomp.core.errors import ArtifactError
from jaxcomp.core.types import Grid, Note
from jaxcomp.pack import container, rows

USUAL = [[[0]], [5, 5, 1, 6], "float32", "codes+range", [[-3, 3, 12], []], [3, 90]]
ROWS = {
    "usual": [USUAL],
    "usual, named": [
        [["params", "Conv_0", "kernel"], *USUAL[1:]],
        [["b"], [6], "float32", "codes", [[-4, 3], []], [3, 7]],
    ],
    "not its place": [USUAL, USUAL],
    "scales of channels": [[*USUAL[:4], [[-3, 3, 12], [3]], [25, 90]]],
    "zero points": [[*USUAL[:4], [[-3, 3, 12], [3], [0, 4], None], [25, 3, 90]]],
    "blocks": [[*USUAL[:4], [[-3, 3, 12], [], None, "fp4_e2m1", 16, [0]], [25, 90]]],
    "numbers": [[-33, -32, 95, 96, -(2**63), 2**63 - 1, 2**70, -(2**70)]],
    "others": [[None, True, False, 0.5, "", "\ud800", "ä", {"a": [1]}, list(range(40)), [[[]]]]],
    "none": [],
}


@pytest.mark.parametrize("given", ROWS.values(), ids=ROWS.keys())
def test_rows_come_back(given):
    found = rows.read(rows.write(given))
    assert found == given
    assert json.dumps(found) == json.dumps(given)  # True is no 1


def test_a_usual_tensor_takes_few_bytes():
    assert len(rows.write([USUAL])) - 1 <= 13
    assert len(rows.write([[["Conv_0", "kernel"], *USUAL[1:]]])) - 1 <= 21


def test_altered_rows_are_errors_or_rows():
    raw, rng = rows.write([row for given in ROWS.values() for row in given]), np.random.default_rng(0)
    outcomes = set()
    for _ in range(10_000):
        changed = bytearray(raw)
        for place in rng.integers(len(raw), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        changed = bytes(changed[: rng.integers(1, len(raw) + 1)])
        try:
            rows.read(changed)
            outcomes.add("rows")
        except container.FORGED:
            outcomes.add("refused")
    assert outcomes == {"rows", "refused"}


@pytest.mark.parametrize(
    "raw", [b"\xff" * 20, b"\x01" + b"\x9f" * 5000, b"\xff\xff\xff\xff\x0f", b"\x01\xc1\xff\xff\xff\x7f", b"", b"\0\0"]
)
def test_forged_rows_take_no_memory(raw):
    tracemalloc.start()
    with pytest.raises(container.FORGED):
        rows.read(raw)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def small_network(rng):
    shapes = [(6,), (5, 5, 1, 6), (12,), (5, 5, 6, 12), (10,), (12, 10)]
    leaves = [np.rint(rng.laplace(size=shape) * 0.8).clip(-3, 3).astype(np.float32) * 0.5 + 0.0 for shape in shapes]
    grids = [Grid(np.full((1,) * leaf.ndim, 0.5, np.float32), np.zeros((1,) * leaf.ndim, np.int32)) for leaf in leaves]
    return leaves, {str(i): Note(grid=grid) for i, grid in enumerate(grids)}


def test_the_header_of_a_small_network_is_small(rng, tmp_path):
    pytest.importorskip("constriction")
    leaves, notes = small_network(rng)
    size = pack.save(tmp_path / "x.jcz", leaves, notes=notes)
    told = pack.inspect(tmp_path / "x.jcz", measured=True)
    assert told.overhead <= 62
    assert size <= 1.01 * sum(t.ideal for t in told.tensors) + 8 * len(leaves) + 32
    again, _ = pack.load(tmp_path / "x.jcz")
    assert all(a.tobytes() == b.tobytes() for a, b in zip(again, leaves, strict=True))


def test_an_altered_small_file_whose_checksum_holds_is_an_error_or_a_tree(rng, tmp_path):
    """Mutations: nothing but an ArtifactError, and no memory beyond what the header's checked sizes allow."""
    pytest.importorskip("constriction")
    leaves, notes = small_network(rng)
    path = tmp_path / "x.jcz"
    pack.save(path, leaves, notes=notes)
    header, blocks = container.read(path)
    plain = rows.write([[*block.about, [len(stream) for stream in block.streams]] for block in blocks])
    body = b"".join(bytes(stream) for block in blocks for stream in block.streams)
    outcomes = {"tree": 0, "refused": 0}
    for turn in range(500):
        changed, streams = bytearray(plain), bytearray(body)
        (changed if turn % 2 else streams)[rng.integers(len(changed if turn % 2 else streams))] = rng.integers(256)
        with contextlib.suppress(*container.FORGED):
            sizes = rows.read(bytes(changed))
            forged, at = [], 0
            for *about, lengths in sizes:
                parts = []
                for length in lengths:
                    parts.append(bytes(streams[at : at + length]))
                    at += length
                forged.append(container.Block(about, parts))
            container.write(path, header, forged)
            try:
                pack.load(path, max_bytes=2**24)
                outcomes["tree"] += 1
            except ArtifactError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 10
