"""A shrunk or factorized model comes back from its file: decisions and parameters make the same function again."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxcomp import pack
from jaxcomp.core.errors import ArgumentError, PathError
from jaxcomp.core.paths import named_leaves
from jaxcomp.rewrite import choose, factorize, shrink
from tests.rewrite import models
from tests.rewrite.parity import randomize

IMAGE = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
IMAGES = jnp.asarray(np.random.default_rng(1).standard_normal((3, 8, 8, 3)), jnp.float32)


class Block(nnx.Module):
    """Convolution, norm, dense."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(6, 3, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.heads[0](nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def linen() -> tuple[Any, Any]:
    """Names with slashes, statistics, shortcuts."""
    model = models.BasicResNet()
    return model.apply, jax.eval_shape(model.init, jax.random.key(0), IMAGE)


def frozen() -> tuple[Any, Any]:
    """The same in the old container."""
    apply_fn, variables = linen()
    return apply_fn, FrozenDict(variables)


def an_nnx_state() -> tuple[Any, Any]:
    """Variables with a ``.value``."""
    graph, state = nnx.split(Block(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graph, state)(x), state


def concatenated() -> tuple[Any, Any]:
    """Two groups in one axis of one parameter, in a sequence: names with a colon."""
    params = ({"a": jnp.ones((3, 4)), "b": jnp.ones((3, 4))}, jnp.ones((8, 2)))

    def apply_fn(p: Any, x: jax.Array) -> jax.Array:
        x = x.mean((1, 2))
        return jnp.concatenate([jnp.tanh(x @ p[0]["a"]), jnp.tanh(x @ p[0]["b"])], -1) @ p[1]

    return apply_fn, params


MODELS = [linen, frozen, an_nnx_state, concatenated]


def bits(tree: Any) -> list[bytes]:
    """The very bits of a tree's leaves."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def save(path: Path, make: Any) -> Any:
    """Saves a shrunk model; returns its results."""
    apply_fn, shapes = make()
    new, small = shrink(apply_fn, randomize(shapes), IMAGE, keep=choose(0.4, "random", seed=0))
    pack.save(path, {"params": small, "keep": new.keep})
    return new(small, IMAGES)


def rebuild(path: Path, make: Any) -> Any:
    """What a process computes that has the file, the code, and no array."""
    apply_fn, params = make()
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    saved, _ = pack.load(path)
    new, like = shrink(apply_fn, shapes, IMAGE, keep=saved["keep"])
    again, _ = pack.load(path, like={"params": like, "keep": saved["keep"]})
    assert jax.tree.structure(again["params"]) == jax.tree.structure(params)
    results = new(again["params"], IMAGES)
    assert bits(results) == bits(new(saved["params"], IMAGES)), "dicts and lists serve as well"
    return results


@pytest.mark.parametrize("make", MODELS)
def test_it_comes_back_bit_for_bit(tmp_path: Path, make: Any) -> None:
    wanted = save(tmp_path / "m.jcz", make)
    assert bits(rebuild(tmp_path / "m.jcz", make)) == bits(wanted)


def test_a_new_process_computes_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "m.jcz"
    wanted = save(path, linen)
    code = "import sys; from tests.rewrite import test_persistence as t; t.print_bits(sys.argv[1])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == [each.hex() for each in bits(wanted)]


def print_bits(path: str) -> None:
    """What the new process does."""
    print(*(each.hex() for each in bits(rebuild(Path(path), linen))))


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("rank", [1, 0.5])
def test_a_factorized_model_comes_back_bit_for_bit(tmp_path: Path, make: Any, rank: Any) -> None:
    apply_fn, shapes = make()
    new, factors = factorize(apply_fn, randomize(shapes), IMAGE, rank=rank)
    assert any(row.method for row in new.report.rows)
    pack.save(tmp_path / "m.jcz", factors, metadata=new.report.options)
    saved, options = pack.load(tmp_path / "m.jcz")
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), shapes)
    again, like = factorize(apply_fn, zeros, IMAGE, **options)
    loaded, _ = pack.load(tmp_path / "m.jcz", like=like)
    assert jax.tree.structure(loaded) == jax.tree.structure(factors)
    wanted = bits(new(factors, IMAGES))
    assert bits(again(loaded, IMAGES)) == bits(again(saved, IMAGES)) == wanted


def test_factors_are_named_below_their_parameter() -> None:
    apply_fn, state = an_nnx_state()
    _, factors = factorize(apply_fn, state, IMAGE, rank=1)
    names = [name for name in named_leaves(factors) if name.startswith("heads/0")]
    assert names == ["heads/0/bias", "heads/0/kernel/in", "heads/0/kernel/out"]


def test_the_decision_goes_by_the_groups_own_names() -> None:
    apply_fn, params = concatenated()
    first, second = np.array([1, 1, 0, 1], bool), np.array([1, 0, 1, 1], bool)
    new, _ = shrink(apply_fn, params, IMAGE, keep={"0/a:1": first, "0/a": second})
    assert list(new.keep) == ["0/a"]
    assert new.keep["0/a"].tolist() == [True, False, False, True]


def test_a_shrunk_function_that_was_shrunk_again_takes_both_decisions(tmp_path: Path) -> None:
    apply_fn, params = concatenated()
    new, small = shrink(apply_fn, params, IMAGE, keep={"0/a": np.arange(4) < 3})
    newer, smaller = shrink(new, small, IMAGE, keep={"0/b": np.arange(4) < 2})
    pack.save(tmp_path / "m.jcz", {"params": smaller, "keep": [new.keep, newer.keep]})
    saved, _ = pack.load(tmp_path / "m.jcz")
    again, shapes = apply_fn, jax.eval_shape(lambda: params)
    for keep in saved["keep"]:
        again, shapes = shrink(again, shapes, IMAGE, keep=keep)
    assert bits(again(saved["params"], IMAGES)) == bits(newer(smaller, IMAGES))


def test_a_model_of_another_width_is_refused() -> None:
    apply_fn, params = concatenated()
    keep = {"0/a": np.array([1, 0, 1, 1], bool)}
    wider = ({"a": jnp.ones((3, 5)), "b": jnp.ones((3, 4))}, jnp.ones((9, 2)))
    with pytest.raises(ArgumentError, match=r"group '0/a' must be bool of shape \(5,\).*got bool of shape \(4,\)"):
        shrink(apply_fn, wider, IMAGE, keep=keep)
    renamed = ({"a": wider[0]["b"], "b": wider[0]["a"]}, wider[1])
    new, _ = shrink(apply_fn, renamed, IMAGE, keep=keep)
    _, small = shrink(apply_fn, params, IMAGE, keep=keep)
    with pytest.raises(ArgumentError, match=r"at '0/b' it needs shape \(3, 5\) and got \(3, 4\)"):
        new(small, IMAGES)
    with pytest.raises(ArgumentError, match="no group is called '0/a'"):
        shrink(lambda p, x: apply_fn((p, p["c"]), x), {**params[0], "c": params[1]}, IMAGE, keep=keep)


def test_leaves_are_told_by_their_paths_not_by_their_order() -> None:
    class Pair(tuple):
        """Lists its second entry first."""

        __slots__ = ()

    key = jax.tree_util.DictKey
    jax.tree_util.register_pytree_with_keys(
        Pair, lambda p: (((key("z"), p[0]), (key("a"), p[1])), None), lambda _, children: Pair(children)
    )

    def apply_fn(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x.mean((1, 2)) @ p[0] + 1) @ p[1]

    params = Pair((jnp.arange(9.0).reshape(3, 3), jnp.ones((3, 3))))
    new, small = shrink(apply_fn, params, IMAGE, keep={"z": np.array([True, False, True])}, lenient=True)
    by_name = {"z": small[0], "a": small[1]}
    assert bits(new(by_name, IMAGES)) == bits(new(small, IMAGES))
    with pytest.raises(PathError, match="both spelled"):
        new({"z": small[0], "a/b": small[1], "a": {"b": small[1]}}, IMAGES)
