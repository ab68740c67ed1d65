"""Files whose checksums hold although jaxcomp would never write them: loading refuses what saving refuses."""

import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxcomp import pack
from jaxcomp.core.errors import ArgumentError, ArtifactError
from jaxcomp.core.types import Block, Grid, Note
from jaxcomp.pack import coding, container
from jaxcomp.pack.streams import squeeze

F4 = np.dtype("float32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.jcz"


def row(keys: Any, array: np.ndarray, coded: coding.Coded | None = None, **other: Any) -> container.Block:
    """A tensor as a file holds it, with any field replaced."""
    coded = coded or coding.encode(array)
    about = {
        "keys": keys,
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "kind": coded.kind,
        "args": coded.args,
    }
    return container.Block(list((about | other).values()), coded.streams)


def refused(path: Path, header: dict[str, Any], blocks: list[container.Block], match: str = "") -> None:
    container.write(path, header, blocks)
    with pytest.raises(ArtifactError, match=match or path.name):
        pack.load(path)


ONE = np.ones(1, np.float32)
KEYS = {
    "alike": ([["a/b"], ["a", "b"]], "spelled 'a/b'"),
    "twice": ([["a"], ["a"]], "spelled 'a'"),
    "number and text": ([["a", 0], ["a", "0"]], "spelled 'a/0'"),
    "true": ([["a", True]], "True is a bool"),
    "null": ([["a", None]], "None is a NoneType"),
    "fraction": ([["a", 1.5]], "1.5 is a float"),
    "large": ([["a", 2**70]], "is a int"),
    "list of text": ([["a", ["0"]]], "is a list"),
    "list of two": ([["a", [0, 1]]], "is a list"),
    "negative index": ([["a", [-1]]], "is a list"),
    "index of truth": ([["a", [False]]], "is a list"),
    "mixture": ([["a", "b"], ["a", 0]], "a mixture"),
    "gap": ([["a", [0]], ["a", [2]]], "indices of a sequence"),
    "inside a leaf": ([["a"], ["a", "b"]], "make a tree"),
    "no keys": ([3], "make a tree"),
    "too deep": ([["a"] * 513], "depth of 512"),
}


@pytest.mark.parametrize(("keys", "match"), KEYS.values(), ids=KEYS.keys())
def test_keys_that_saving_refuses(path: Path, keys: list[Any], match: str) -> None:
    refused(path, {}, [row(one, ONE) for one in keys], match)
    with pytest.raises(ArtifactError):
        pack.load(path, like={"a": ONE})


@jax.tree_util.register_pytree_with_keys_class
class Mixture:
    """A node of both a name and a number."""

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey("a"), ONE), (jax.tree_util.DictKey(0), ONE)], None

    @classmethod
    def tree_unflatten(cls, _: Any, __: Any) -> Any:
        return cls()


def test_both_sides_agree_on_keys(path: Path) -> None:
    for tree in ({"a": ONE, 0: ONE}, [{"a": {0: ONE, "b": {}}}], Mixture()):
        with pytest.raises(ArgumentError, match=r"all strings or all integers|a mixture"):
            pack.save(path, tree)
    for tree in ({True: ONE}, {"a": {False: ONE}}):
        with pytest.raises(ArgumentError, match="is a bool"):
            pack.save(path, tree)


@pytest.mark.parametrize("depth", [1, 100, 500, 512])
def test_a_deep_tree_comes_back(path: Path, depth: int) -> None:
    tree: Any = ONE
    for i in range(depth):
        tree = [tree] if i % 2 else {"a": tree}
    pack.save(path, tree)
    for like in (None, tree):
        again, _ = pack.load(path, like=like)
        for _ in range(depth):
            again = again[0] if isinstance(again, list) else again["a"]
        assert np.array_equal(again, ONE)


@pytest.mark.parametrize("depth", [513, 5000])
def test_a_tree_too_deep_to_load_is_not_saved(path: Path, depth: int) -> None:
    tree: Any = ONE
    for _ in range(depth):
        tree = {"a": tree}
    with pytest.raises(ArgumentError, match="512"):
        pack.save(path, tree)
    assert not path.exists()


HEADERS = {
    "unread": {"more": 1},
    "off the grid": {"off_grid": [1]},
    "off the grid twice": {"off_grid": [0, 0]},
    "off the grid by truth": {"off_grid": [False]},
    "empty beyond": {"empty": [[2, ["b"], {}]]},
    "empty before": {"empty": [[-1, ["b"], {}]]},
    "empty twice": {"empty": [[0, ["b"], {}], [0, ["c"], {}]]},
    "empty but full": {"empty": [[0, ["b"], {"c": 1}]]},
    "empty truth": {"empty": [[0, ["b"], False]]},
    "empty alike": {"empty": [[0, ["a"], []]]},
    "metadata": {"metadata": [["a", 1]]},
    "deep metadata": {"metadata": json.loads('{"a":' * 101 + "1" + "}" * 101)},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_headers_that_saving_does_not_write(path: Path, header: dict[str, Any]) -> None:
    refused(path, header, [row(["a"], ONE)])
    with pytest.raises(ArtifactError):
        pack.inspect(path)


def codes(scale: float = 0.5, **other: Any) -> coding.Coded:
    coded = coding.Coded(
        "codes", [[0, 8], []], [squeeze(np.float32([scale]).tobytes(), 4), squeeze(bytes([0, 50, 100, 150]))]
    )
    return coded._replace(**other)


def test_the_forged_codes_are_right_but_for_what_is_forged(path: Path) -> None:
    container.write(path, {}, [row(["a"], np.zeros(4, F4), codes())])
    np.testing.assert_array_equal(pack.load(path)[0]["a"], np.float32([0, 25, 50, 75]))


WIDE = coding.Coded("ints", [[0, 8]], [squeeze(bytes([0, 1, 2, 200]))])
CODED = {
    **{f"scale {scale}": (F4, codes(scale)) for scale in (np.nan, np.inf, -np.inf, -1.0, 0.0)},
    "codes of integers": (np.dtype("int8"), codes()),
    "wraps": (np.dtype("int8"), WIDE),
    "wraps where unsigned": (np.dtype("uint8"), coding.Coded("ints", [[-1, 8]], WIDE.streams)),
    "wraps in four bits": (coding.dtype_named("int4"), WIDE),
    "no truth": (np.dtype(bool), WIDE),
    "integers of floats": (F4, WIDE),
    "beyond int64": (np.dtype("int64"), coding.Coded("ints", [[2**63 - 2, 8]], WIDE.streams)),
    "least of truth": (np.dtype("int64"), coding.Coded("ints", [[True, 8]], WIDE.streams)),
    "step": (np.dtype("int64"), coding.Coded("ints", [[0, 8, 3]], WIDE.streams)),
    "more streams": (F4, codes(streams=[*codes().streams, b"\0"])),
    "more plain streams": (F4, coding.Coded("plain", [], [*coding.encode(np.ones(4, F4)).streams, b"\0"])),
    "more integer streams": (np.dtype("int16"), WIDE._replace(streams=[*WIDE.streams, b"\0"])),
    "more numbers": (F4, codes(args=[[0, 8], [], None, None, None, None, 7])),
    "plain numbers": (F4, coding.Coded("plain", [7], coding.encode(np.ones(4, F4)).streams)),
    "axis": (F4, codes(args=[[0, 8], [1]])),
    "axis twice": (F4, codes(args=[[0, 8], [0, 0]])),
    "format": (F4, codes(args=[[0, 8], [], None, "fp1"])),
    "beyond the format": (F4, codes(args=[[20, 8], [], None, "nf4"])),
    "block": (F4, codes(args=[[0, 8], [], None, None, 0, []])),
    "block of no axes": (F4, codes(args=[[0, 8], [], None, None, 2])),
    "axes of no block": (F4, codes(args=[[0, 8], [], None, None, None, [0]])),
    "kind": (F4, codes(kind="codes+")),
}


@pytest.mark.parametrize(("dtype", "coded"), CODED.values(), ids=CODED.keys())
def test_tensors_that_saving_does_not_write(path: Path, dtype: np.dtype, coded: coding.Coded) -> None:
    refused(path, {}, [row(["a"], np.zeros(4, dtype), coded)], "make a tree of arrays")


@pytest.mark.parametrize("shape", [[-1, -4], [4.0], [True, 4], "4", None, [2**62, 2**62]])
def test_shapes_that_no_array_has(path: Path, shape: Any) -> None:
    container.write(path, {}, [row(["a"], np.zeros(4, F4), shape=shape)])
    for reader in (pack.load, pack.inspect):
        with pytest.raises(ArtifactError):
            reader(path)


@functools.cache
def inflated() -> coding.Coded:
    return coding.Coded("plain", [], [squeeze(bytes(2**24))])


BOMBS = {
    "zeros": [row(["a"], np.zeros(4, F4), shape=[2**31])],
    "many zeros": [row([f"a{i}"], np.zeros(4, F4), shape=[2**20]) for i in range(300)],
    "deflated": [row([f"a{i}"], np.zeros(1, np.int8), inflated(), shape=[2**24]) for i in range(80)],
}


@pytest.mark.parametrize("blocks", BOMBS.values(), ids=BOMBS.keys())
def test_what_unfolds_into_gigabytes_is_refused_before_memory_is_taken(path: Path, blocks: Any) -> None:
    container.write(path, {}, blocks)
    size = sum(np.prod(block.about[1], dtype=object) * np.dtype(block.about[2]).itemsize for block in blocks)
    started = time.process_time()
    for reader in (pack.load, pack.inspect):
        with pytest.raises(ArtifactError, match=rf"max_bytes={size}"):
            reader(path)
    assert time.process_time() - started < 1
    assert pack.inspect(path, max_bytes=size).tensors[0].path == blocks[0].about[0][0]


def test_a_header_that_unfolds_into_megabytes_is_refused(path: Path) -> None:
    container.write(path, {"metadata": {"a": " " * 2**25}}, [])
    for reader in (pack.load, pack.inspect):
        with pytest.raises(ArtifactError, match=r"header takes .* max_bytes=\d+"):
            reader(path)


def test_the_limit_is_the_callers(path: Path) -> None:
    tree = {"a": np.zeros(1000, np.float32)}
    pack.save(path, tree)
    assert pack.load(path, max_bytes=4000)[0]["a"].shape == (1000,)
    with pytest.raises(ArtifactError, match="limit is 3,999"):
        pack.load(path, max_bytes=3999)
    for wrong in (-1, 1.5, True, "1 GB"):
        with pytest.raises(ArgumentError, match="max_bytes"):
            pack.load(path, max_bytes=wrong)


def test_what_is_like_a_tree_that_the_caller_has_may_be_as_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"a": np.zeros(2000, np.float32)}
    pack.save(path, tree)
    monkeypatch.setattr("jaxcomp.pack.stored.LEAST_LIMIT", 64 * 100)
    monkeypatch.setattr("jaxcomp.pack.stored.TIMES_THE_FILE", 0)
    with pytest.raises(ArtifactError, match="max_bytes=8000"):
        pack.load(path)
    assert pack.load(path, like=tree)[0]["a"].shape == (2000,)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for reader in (pack.load, pack.inspect):
        with pytest.raises(ArtifactError, match="is a folder"):
            reader(tmp_path)
    with pytest.raises(ArgumentError, match="is a folder"):
        pack.save(tmp_path, {})


def test_metadata_whose_keys_json_does_not_tell_apart_is_refused(path: Path) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    circle: dict[str, Any] = {}
    circle["a"] = circle
    for metadata in ({1: "a", "1": "b"}, {"a": {None: 1, "null": 2}}, {"a": deep}, circle):
        with pytest.raises(ArgumentError, match="metadata"):
            pack.save(path, {}, metadata=metadata)


BASE = np.random.default_rng(0).normal(size=(6, 8)) + 1j
VIEWS = {
    "column": lambda a: a[:, 1],
    "step": lambda a: a[::2, ::3],
    "reversed": lambda a: a[::-1, ::-1],
    "transposed": lambda a: a.T,
    "broadcast": lambda a: np.broadcast_to(a[:1], (5, 8)),
    "windows": lambda a: np.lib.stride_tricks.sliding_window_view(a[0], 3),
    "fortran": np.asfortranarray,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype),
    "field": lambda a: np.rec.fromarrays([a, a])["f0"],
    "scalar": lambda a: a[0, 0],
}
DTYPES = [
    "complex64",
    "complex128",
    "float64",
    "float32",
    "bfloat16",
    "float8_e4m3fn",
    "int64",
    "uint8",
    "int4",
    "bool",
]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_arrays_of_any_layout_in_memory(path: Path, view: Any) -> None:
    tree = {}
    for name in DTYPES:
        dtype = coding.dtype_named(name)
        tree[name] = view((BASE if dtype.kind == "c" else 3 * np.abs(BASE)).astype(dtype))
    pack.save(path, tree)
    again, _ = pack.load(path)
    for name, array in tree.items():
        assert again[name].dtype == array.dtype
        assert again[name].tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("block", [None, Block(4, (1,))])
def test_views_on_a_grid_are_codes(path: Path, block: Block | None) -> None:
    whole = np.random.default_rng(0).integers(-7, 8, (12, 16)).astype(np.float32) * np.float32(0.1)
    part = whole[::2, ::2]
    scale = np.full((1, 1) if block is None else (2, 8), 0.1, np.float32)
    pack.save(path, {"w": part}, notes={"w": Note(grid=Grid(scale, np.zeros_like(scale, np.int32), block))})
    assert pack.inspect(path).tensors[0].kind.startswith("codes")
    assert pack.load(path)[0]["w"].tobytes() == part.tobytes()
