"""Laws of saving and loading: any tree comes back bit for bit, and what cannot is told by name."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxcomp import pack
from jaxcomp.core.errors import ArgumentError, ArtifactError, PathError
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Grid, Note

RNG = np.random.default_rng(0)


class Pair(NamedTuple):
    value: object
    scale: object


def layers():
    return {
        "Conv_0": {"kernel": RNG.normal(size=(3, 3, 1, 5)).astype(np.float32), "bias": np.zeros(5, np.float32)},
        "Norm_0": {"mean": jnp.ones(5, jnp.bfloat16), "count": np.int32(7), "frozen": np.array(True)},
    }


def pair():
    return {"w": Pair(1.0, 0.5)}


class Model(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32))
        self.parts = nnx.List([nnx.Param(jnp.arange(3.0)), nnx.BatchStat(jnp.zeros(2, jnp.bfloat16))])


TREES = {
    "dict": layers,
    "frozen": lambda: FrozenDict(layers()),
    "list": lambda: [layers(), [], [np.ones(2), np.zeros((0, 3), np.int8)]],
    "tuple": lambda: (layers(), (), (np.float16(1), None)),
    "leaf": lambda: jnp.arange(6).reshape(2, 3),
    "numbers": lambda: {"f": 1.5, "i": 3, "b": False, "c": 1j},
    "integer keys": lambda: {0: np.ones(1), 10: {2: np.ones(2)}},
    "empty": lambda: {},
    "nothing": lambda: None,
    "empty subtrees": lambda: {"a": {}, "b": [{}, (), None, {"c": {}}], "d": np.ones(1), "e": optax.MaskedNode()},
    "named tuple": pair,
    "slash": lambda: {"a/b": np.ones(1), "a": {"c": np.ones(2)}},
    "nnx": lambda: nnx.state(Model()),
    "optimizer": lambda: optax.adamw(1e-3).init({"w": jnp.ones(3)}),
}


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.jcz"


@pytest.mark.parametrize("make", TREES.values(), ids=TREES.keys())
def test_every_tree_comes_back_in_its_own_structure(path, make):
    tree = make()
    size = pack.save(path, tree)
    assert size == os.path.getsize(path)
    again, metadata = pack.load(path, like=tree)
    assert metadata == {}
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, again, tree)))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype), tree)
    assert jax.tree.structure(pack.load(path, like=abstract)[0]) == jax.tree.structure(tree)


@pytest.mark.parametrize("make", TREES.values(), ids=TREES.keys())
def test_every_tree_comes_back_as_dicts_and_lists(path, make):
    tree = make()
    pack.save(path, tree)
    plain, _ = pack.load(path)
    again, wanted = named_leaves(plain), (named_leaves(tree) if make is not pair else {"w/value": 1.0, "w/scale": 0.5})
    assert again.keys() == wanted.keys()
    assert all(same_bits(again[name], wanted[name]) for name in wanted)
    pack.save(path, plain)
    again, _ = pack.load(path)
    assert jax.tree.structure(again) == jax.tree.structure(plain)


def test_the_plain_tree_is_what_one_would_write(path):
    pack.save(path, {"a": {}, "b": [{0: 1}, (), None, {"c": {}}], "e": optax.MaskedNode(), "p": Pair(2, 3)})
    assert pack.load(path)[0] == {"a": {}, "b": [{0: 1}, [], None, {"c": {}}], "e": {}, "p": {"value": 2, "scale": 3}}


def test_one_file_serves_linen_and_nnx(path):
    state = nnx.state(Model())
    pack.save(path, state)
    pure = nnx.to_pure_dict(state)
    assert named_leaves(pack.load(path)[0]).keys() == named_leaves(state).keys() == named_leaves(pure).keys()
    loaded, _ = pack.load(path, like=FrozenDict(pure))
    assert isinstance(loaded, FrozenDict)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, loaded, FrozenDict(pure))))


def test_notes_turn_into_codes_whatever_the_container(path):
    levels = RNG.integers(-7, 8, (16, 8))
    view = jnp.asarray(levels, jnp.float32) * jnp.float32(0.25)
    grid = Grid(jnp.full((1, 1), 0.25), jnp.zeros((1, 1), jnp.int32))
    for tree, name in (({"a": [view]}, "a/0"), (nnx.State({"w": nnx.Param(view)}), "w"), (view, "")):
        pack.save(path, tree, notes={name: Note(bits=4, grid=grid)})
        (row,) = pack.inspect(path).tensors
        assert (row.path, row.kind, row.dense) == (name, "codes", 512)
        assert row.stored < 16 * 8 / 2 + 20
        assert same_bits(jax.tree.leaves(pack.load(path, like=tree)[0])[0], view)


def test_inspect_tells_every_tensor_and_adds_up(path):
    params = layers()
    grid = Grid(np.float32([[[[0.1]]]]), np.int32([[[[0]]]]))
    with pytest.warns(
        UserWarning, match=r"notes give grids for Conv_0/kernel .* recipe.describe\(params, state, step\)"
    ):
        size = pack.save(path, params, notes={"Conv_0/kernel": Note(grid=grid)}, metadata={"seed": 3})
    contents = pack.inspect(path)
    assert contents.overhead + sum(t.stored for t in contents.tensors) == size
    assert [(t.path, t.shape, t.dtype) for t in contents.tensors] == [
        (name, np.shape(leaf), np.asarray(leaf).dtype.name) for name, leaf in named_leaves(params).items()
    ]
    assert contents.metadata == {"seed": 3}
    assert [t.path for t in contents.tensors if t.off_grid] == ["Conv_0/kernel"]
    text = str(contents)
    for word in ("Conv_0/kernel", "3x3x1x5", "bfloat16", "off its grid", "scalar", "total", str(size)):
        assert word in text


@pytest.mark.parametrize("coder", ["auto", "deflate"])
def test_inspect_measures_what_bytes_come_near_to(path, coder):
    codes = np.repeat(np.arange(-2, 2), 1024).astype(np.int8)
    tree = {"codes": RNG.permutation(codes).reshape(64, 64), "noise": RNG.normal(size=500), "none": np.zeros((0, 2))}
    pack.save(path, tree, coder=coder)
    rows = {row.path: row for row in pack.inspect(path, measured=True).tensors}
    assert {name: row.values for name, row in rows.items()} == {"codes": 4, "noise": 500, "none": 0}
    assert rows["codes"].entropy == 1024
    assert rows["none"].entropy == 0
    assert all(row.ideal <= row.stored <= 1.01 * row.ideal + 12 for row in rows.values())
    text = str(pack.inspect(path, measured=True))
    assert all(word in text for word in ("values", "entropy", "ideal", " 1024 "))


def test_a_small_model_has_a_small_header(path):
    params = {f"Dense_{i}": {"kernel": np.ones((8, 9 + i)), "bias": np.ones(9 + i)} for i in range(5)}
    pack.save(path, params)
    assert pack.inspect(path).overhead < 250


def test_the_same_tree_gives_the_same_bytes(path):
    params = layers()
    pack.save(path, params)
    first = path.read_bytes()
    pack.save(path, params)
    assert path.read_bytes() == first


def test_metadata_comes_back_as_json_holds_it(path):
    metadata = {"text": "naïve \U0001f600", "deep": [1, 2.5, None, {"x": True}], "size": 2**70, "tuple": (1, 2)}
    pack.save(path, {}, metadata=metadata)
    assert pack.load(path) == ({}, {**metadata, "tuple": [1, 2]})


WRONG = {
    "text": ({"a": ["x"]}, r"a/0: .*dtype"),
    "object": ({"a": object()}, r"a: .*object"),
    "shape": ({"a": jax.ShapeDtypeStruct((2,), "float32")}, r"a: .*ShapeDtypeStruct"),
    "structured": ({"a": np.zeros(2, "i4,f4")}, r"a: .*dtype"),
    "date": ({"a": np.zeros(2, "M8[s]")}, r"a: .*dtype"),
    "float key": ({"a": {1.5: np.ones(1)}}, r"a/1.5: .*1.5 is a float"),
}


@pytest.mark.parametrize(("tree", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_stored_is_refused_by_name(path, tree, message):
    with pytest.raises(ArgumentError, match=message):
        pack.save(path, tree)
    assert not path.exists()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_come_back(path, impl):
    tree = {"dropout": jax.random.key(3, impl=impl), "layers": jax.random.split(jax.random.key(1, impl=impl), (2, 3))}
    pack.save(path, tree)
    for like in (tree, jax.eval_shape(lambda: tree)):
        loaded = pack.load(path, like=like)[0]
        assert all(loaded[name].dtype == key.dtype and (loaded[name] == key).all() for name, key in tree.items())
    plain = pack.load(path)[0]
    assert all((plain[name] == jax.random.key_data(key)).all() for name, key in tree.items())
    with pytest.raises(ArtifactError, match=r"'dropout' needs to be uint32\[6,.*\] and is uint32\[.*\] in the file"):
        pack.load(path, like=tree | {"dropout": tree["layers"].reshape(6)})


def test_a_tracer_is_refused_by_name(path):
    with pytest.raises(ArgumentError, match=r"w: .*outside jit"):
        jax.eval_shape(lambda w: pack.save(path, {"w": w}), jnp.ones(2))


def test_two_leaves_of_one_name_are_refused(path):
    with pytest.raises(PathError, match="'a/b'"):
        pack.save(path, {"a/b": np.ones(1), "a": {"b": np.ones(1)}})


def test_notes_of_no_leaf_are_refused(path):
    with pytest.raises(ArgumentError, match=r"'?w'?.*params/w"):
        pack.save(path, {"params": {"w": np.ones(1)}}, notes={"w": Note(bits=8)})


@pytest.mark.parametrize("metadata", [{"a": np.float32(1)}, {"a": {1, 2}}, ["a"], {(1, 2): 3}])
def test_metadata_that_json_cannot_hold_is_refused(path, metadata):
    with pytest.raises(ArgumentError, match="metadata"):
        pack.save(path, {}, metadata=metadata)


MISMATCHES = {
    "missing": ({"a": np.ones(2, "f4"), "b": np.ones(3), "c": np.ones(1)}, "'c' is needed"),
    "surplus": ({"a": np.ones(2, "f4")}, "'b' is in the file"),
    "shape": ({"a": np.ones((2, 1), "f4"), "b": np.ones(3)}, r"'a' needs to be float32\[2,1\] and is float32\[2\]"),
    "dtype": ({"a": jax.ShapeDtypeStruct((2,), jnp.bfloat16), "b": np.ones(3)}, r"'a' needs to be bfloat16\[2\]"),
    "empty": ({}, "'a' is in the file.*'b' is in the file"),
}


@pytest.mark.parametrize(("like", "message"), MISMATCHES.values(), ids=MISMATCHES.keys())
def test_a_tree_that_is_not_like_the_file_is_refused_by_name(path, like, message):
    pack.save(path, {"a": np.ones(2, "f4"), "b": np.ones(3)})
    with pytest.raises(ArtifactError, match=message):
        pack.load(path, like=like)


def test_foreign_byte_orders_come_back_as_native(path):
    pack.save(path, {"a": np.arange(5, dtype=">f4")})
    assert same_bits(pack.load(path)[0]["a"], np.arange(5, dtype=np.float32))
