"""A summary counts what NumPy counts, lists every leaf once, and says why one was left out."""

import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Note
from jaxcomp.measure import summary

WIDTHS = {
    "float32": 32, "bfloat16": 16, "float16": 16, "float8_e4m3fn": 8, "int32": 32, "uint8": 8, "int4": 4,
    "uint2": 2, "bool": 8, "complex64": 64,
}  # fmt: skip


def weights(shape, seed=0):
    """Whole numbers of which about half are zero, some of them negative zeros."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 3, shape) * rng.integers(0, 2, shape)
    return jnp.asarray(np.where(rng.random(shape) < 0.3, -0.0, values), jnp.float32)


def tree():
    return {
        "conv": {"kernel": weights((3, 3, 5, 7), 1), "bias": weights((7,), 2)},
        "norm": [weights((7,), 3), weights((), 4)],
        "none": {},
        "head": (weights((0, 4)), weights((7, 3), 5)),
    }


class Net(nnx.Module):
    def __init__(self):
        self.conv = nnx.data({"kernel": nnx.Param(weights((3, 3, 5, 7), 1))})
        self.mean = nnx.BatchStat(weights((7,), 2))
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


CONTAINERS = {
    "dict": tree,
    "frozen": lambda: FrozenDict({"conv": tree()["conv"]}),
    "tuple": lambda: tuple(jax.tree.leaves(tree())),
    "nnx": lambda: nnx.state(Net()),
    "leaf": lambda: weights((4, 4)),
    "empty": dict,
}


def is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("notes", [None, {}])
def test_counts_are_numpys_over_containers(make, notes):
    params = make()
    got, leaves = summary(params, notes=notes), named_leaves(params)
    assert [row.path for row in got.rows] == list(leaves)
    for row, leaf in zip(got.rows, leaves.values(), strict=True):
        assert (row.shape, row.dtype, row.parameters) == (leaf.shape, str(leaf.dtype), leaf.size)
        zeros = 0 if is_key(leaf) else sum(value == 0 for value in np.asarray(leaf).ravel().tolist())
        assert row.nonzeros == leaf.size - zeros
        assert row.sparsity == (zeros / leaf.size if leaf.size else 0)
        assert row.asked is None
        assert row.note == ("" if notes is None else "no rule selects it")


@pytest.mark.parametrize(("dtype", "width"), WIDTHS.items())
def test_any_dtype_is_counted_at_its_own_width(dtype, width):
    values = np.array([0, 1, 0, 1, 1], np.int32)
    (row,) = summary([jnp.asarray(values.astype(jnp.dtype(dtype)))]).rows
    assert (row.nonzeros, row.bits, row.dense_bytes) == (3, width, math.ceil(5 * width / 8))


@pytest.mark.parametrize("leaf", [3, 0.5, True, 1j, np.float64(2), "text", np.array(["a", ""]), object()])
def test_a_leaf_that_is_no_jax_array_does_not_fail(leaf):
    got = summary({"odd": leaf, "w": jnp.ones(3)})
    assert [row.path for row in got.rows] == ["odd", "w"]
    assert str(got)
    json.dumps(got.to_dict())


def test_prng_keys_are_values_that_are_not_zero():
    (row,) = summary(jax.random.split(jax.random.key(0), 3)).rows
    assert (row.parameters, row.nonzeros, row.sparsity, row.dense_bytes) == (3, 3, 0.0, 24)


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_totals_are_sums_of_rows(make):
    params = make()
    notes = {path: Note(sparsity=0.5, bits=4) for path in list(named_leaves(params))[::2]}
    got = summary(params, notes=notes)
    for field in ("parameters", "nonzeros", "dense_bytes", "coded_bytes"):
        assert getattr(got.total, field) == sum(getattr(row, field) for row in got.rows)
    count = got.total.parameters
    assert got.sparsity == ((count - got.total.nonzeros) / count if count else 0)
    assert got.ratio == (got.total.dense_bytes / got.total.coded_bytes if got.total.coded_bytes else 1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("kept", [0, 1, 37, 500, 1000])
def test_coded_bytes_are_the_smaller_of_dense_and_masked_codes(bits, kept):
    leaf = (np.arange(1000) < kept).astype(np.float32)
    (row,) = summary({"w": leaf}, notes={"w": Note(bits=bits)}).rows
    dense, masked = -(-1000 * bits // 8), 125 + -(-kept * bits // 8)
    assert row.coded_bytes == min(dense, masked)
    assert row.dense_bytes == 4000


def test_notes_are_held_against_what_was_reached():
    params = {"a": jnp.zeros(4), "b": jnp.array([0.0, 1, 1, 1]), "c": jnp.ones(2), "d": jnp.zeros(3)}
    notes = {
        "a": Note(sparsity=jnp.float32(0.5), bits=2),
        "b": Note(sparsity=0.25),
        "c": Note(bits=4, skipped="too small"),
    }
    got = {row.path: row for row in summary(params, notes=notes).rows}
    assert {path: row.note for path, row in got.items()} == {
        "a": "every weight is zero", "b": "", "c": "too small", "d": "no rule selects it",
    }  # fmt: skip
    assert {path: row.asked for path, row in got.items()} == {"a": 0.5, "b": 0.25, "c": None, "d": None}
    assert [row.bits for row in got.values()] == [2, 32, 4, 32]


def test_asked_and_reached_are_over_the_leaves_that_were_asked():
    params = {"a": jnp.zeros(6), "b": jnp.ones(2), "c": jnp.ones(100)}
    got = summary(params, notes={"a": Note(sparsity=0.5), "b": Note(sparsity=0.9)})
    assert got.asked == pytest.approx((6 * 0.5 + 2 * 0.9) / 8)
    assert got.reached == 6 / 8
    bare = summary(params)
    assert bare.asked is None
    assert bare.reached is None


def test_not_a_number_is_no_zero():
    (row,) = summary([jnp.array([jnp.nan, jnp.inf, 0.0])]).rows
    assert row.nonzeros == 2
    assert row.note == "2 are NaN or infinite"


def test_text_lists_every_row_once_in_aligned_columns():
    params = tree() | {"a name with\na line break": jnp.ones(2)}
    got = summary(params, notes={})
    lines = str(got).splitlines()
    assert len(lines) == len(got.rows) + 6
    notes = lines[0].index("note")
    assert all(line[notes:].strip() == "1" for line in lines[2:-4])
    assert lines[-3].startswith("total")
    assert lines[-2] == "note 1: no rule selects it"


def test_dict_survives_json():
    got = summary(tree(), notes={"conv/kernel": Note(sparsity=0.5, bits=8)})
    plain = got.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert len(plain["rows"]) == len(got.rows)


@pytest.mark.parametrize("width", [160, 80])
def test_rich_shows_every_cell_whole_at_any_width(width):
    console = pytest.importorskip("rich.console").Console(width=width, record=True, file=io.StringIO())
    params = {"[red]w[/red]": jnp.array([0.0, 1.0]), "BatchNorm_0": {"scale": jnp.zeros((3, 3, 64, 128))}}
    got = summary(params, notes={"BatchNorm_0/scale": Note(sparsity=0.951, bits=4, remark="as it was told")})
    console.print(got)
    shown = console.export_text()
    columns, rows, total, below = got._table()
    for words in (*columns, *(cell for row in (*rows, total) for cell in row), *below[:-1]):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= width
    (heading,) = (line for line in shown.splitlines() if "path" in line)
    assert ("shape" in heading) == (width == 160)  # where it is narrow, it stands below


def test_errors_say_what_is_wrong():
    with pytest.raises(ArgumentError, match=r"'params/w'.*like 'w'"):
        summary({"w": jnp.ones(2)}, notes={"params/w": Note(bits=8)})
    with pytest.raises(ArgumentError, match="'w' has a shape but no values"):
        summary(jax.eval_shape(lambda: {"w": jnp.ones(2)}))
