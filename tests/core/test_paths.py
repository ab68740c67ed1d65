"""Paths are spelled alike whatever the container."""

from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

import jaxcomp as jc
from jaxcomp.core.errors import JaxcompError, PathError
from jaxcomp.core.paths import named_leaves, path_string, replace_leaves


class Layer(NamedTuple):
    value: float
    scale: float


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.dense = nnx.Linear(2, 3, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(3, 1, rngs=rngs)])


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3, name="dense")(x)


def test_linen_and_nnx_are_spelled_the_same():
    linen = named_leaves(LinenNet().init(jax.random.key(0), jnp.zeros((1, 2)))["params"])
    assert set(linen) == {"dense/bias", "dense/kernel"}
    state = nnx.state(NnxNet(nnx.Rngs(0)))
    assert set(named_leaves(state)) == {*linen, "blocks/0/bias", "blocks/0/kernel"}
    assert set(named_leaves(nnx.to_pure_dict(state))) == set(named_leaves(state))


def test_nnx_variables_and_modules_are_spelled_as_their_state():
    module = NnxNet(nnx.Rngs(0))
    assert set(named_leaves(nnx.split(module)[1])) == set(named_leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"a": {"b": 1.0}, "c": [2.0, (3.0,)]}, ["a/b", "c/0", "c/1/0"]),
        (FrozenDict({"a": {"b": 1.0}}), ["a/b"]),
        (5.0, [""]),
        ({1: {2: 0.0}}, ["1/2"]),
        ({"value": 1.0}, ["value"]),
        ({"w": {"value": 1.0, "raw_value": 2.0}}, ["w/raw_value", "w/value"]),
        (Layer(1.0, 2.0), ["value", "scale"]),
        ({"empty": {}, "none": None, "unit": ()}, []),
    ],
)
def test_spelling(tree, names):
    assert list(named_leaves(tree)) == names


def test_an_nnx_param_named_value_keeps_its_name():
    class Scaled(nnx.Module):
        def __init__(self) -> None:
            self.value = nnx.Param(jnp.ones(2))

    assert list(named_leaves(nnx.state(Scaled()))) == ["value"]


def test_two_leaves_spelled_alike_are_an_error():
    with pytest.raises(PathError, match="'a/b'"):
        named_leaves({"a/b": 1.0, "a": {"b": 2.0}})
    assert issubclass(PathError, JaxcompError)
    assert issubclass(PathError, ValueError)


def test_named_leaves_are_spelled_as_in_the_tree():
    named = named_leaves({"block": [{"kernel": 1.0, "bias": 2.0}]})
    assert named_leaves(named) == named


def test_replace_leaves_touches_the_named_alone():
    tree = {"a": [1.0, object()], "b": FrozenDict({"c": 2.0})}
    new = replace_leaves(tree, {"a/0": 5.0, "elsewhere": 9.0})
    assert new == {"a": [5.0, tree["a"][1]], "b": FrozenDict({"c": 2.0})}
    assert path_string(()) == ""


class Variable(NamedTuple):
    """What Keras 3 has in lists, as far as its parameters are taken from there."""

    path: str
    value: jax.Array


def test_variables_in_lists_are_called_by_their_own_paths(tmp_path: Path) -> None:
    """In rules, notes, reports and files, of any length of paths, in trees of one level."""
    variables = [Variable("sequential/dense/kernel", jnp.eye(4)), Variable("sequential/dense/bias", jnp.zeros(4))]
    params = {v.path: v.value for v in variables}
    recipe = jc.partition([(".*dense/kernel", jc.prune.magnitude(0.5))])
    state = recipe.init(params)
    view, notes = recipe.apply(params, state), recipe.describe(params, state, 0)
    assert notes["sequential/dense/kernel"].sparsity == 0.5
    kernel, bias = "sequential/dense/kernel", "sequential/dense/bias"
    assert [row.path for row in jc.measure.summary(view, notes=notes).rows] == [bias, kernel]
    jc.pack.save(tmp_path / "m.jcz", view, notes=notes)
    jax.tree.map(np.testing.assert_array_equal, jc.pack.load(tmp_path / "m.jcz")[0], view)
    sites = jc.trace.sites(lambda p, x: x @ p[kernel] + p[bias], params, jnp.ones((1, 4)))
    assert [site.paths for site in sites] == [(kernel,)]
