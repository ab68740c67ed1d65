"""Laws of every rewrite: it comes back from a file to the same bits, from shapes alone, alone and after another."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, ArtifactError
from jaxcomp.rewrite.plain import to_json

from .rewrites import in_turn, networks

NETWORKS = networks()


def options(**given: Any) -> jc.rewrite.Scheme:
    """A scheme, every field of which is another than the default one's."""
    return jc.rewrite.Scheme(**{"bits": 5, "symmetric": False, "input_bits": 7, "input_symmetric": True, **given})


def calibrated(rewrite: Callable[..., Any], scheme: Any) -> Callable[..., Any]:
    def make(f: Any, p: Any, x: Any) -> Any:
        return rewrite(f, p, x, scheme=scheme, ranges=jc.rewrite.calibrate(f, p, [x], scheme))

    return make


def trained(**how: Any) -> Callable[..., Any]:
    """What some steps of training make of it."""

    def make(f: Any, p: Any, x: Any) -> Any:
        new, both = jc.rewrite.qat(f, p, [x], **how)
        return new, jax.tree.map(lambda leaf: leaf * 1.01, both)

    return make


BLOCKS = options(inputs=None, block=4, fit=jc.quant.mse(20), bits=3)
REWRITES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "shrink": lambda f, p, x: jc.rewrite.shrink(f, p, x, keep=jc.rewrite.choose(0.5)),
    "shrink-lenient": lambda f, p, x: jc.rewrite.remove_dead(f, jax.tree.map(half_of, p), x),
    "factorize": lambda f, p, x: jc.rewrite.factorize(f, p, x, rank=0.5, cheaper=False),
    "fold_batch_norm": lambda f, p, x: jc.rewrite.fold_batch_norm(f, p, x),
    "fold_weights": lambda f, p, x: jc.rewrite.fold_weights(f, p, x),
    "quantize": calibrated(jc.rewrite.quantize, options()),
    "quantize-blocks": lambda f, p, x: jc.rewrite.quantize(f, p, x, scheme=BLOCKS),
    "quantize-nf4": lambda f, p, x: jc.rewrite.quantize(f, p, x, scheme=jc.rewrite.Scheme("nf4", inputs=None)),
    "quantize-dynamic": lambda f, p, x: jc.rewrite.quantize(f, p, x, scheme=options(inputs="dynamic", axis=None)),
    "fake_quantize": calibrated(jc.rewrite.fake_quantize, options(fit=jc.quant.percentile(0.99))),
    "qat": trained(scheme=options()),
    "qat-averages": trained(scheme=[(".*head", None), (".*", options())], weight_grids="fit", input_grids="average"),
}  # fmt: skip
LAW = pytest.mark.parametrize(("name", "network"), [
    *((name, "convolutional") for name in REWRITES),
    *(pytest.param(name, network, marks=pytest.mark.exhaustive)
      for name, network, _ in in_turn(list(REWRITES), [own for own in NETWORKS if own != "convolutional"])),
])  # fmt: skip
PAIRS = [  # in every run each is first, and each but the dearest second
    pytest.param(first, second, marks=[] if (i + j) % 3 == 0 and second != "qat" else pytest.mark.exhaustive)
    for i, first in enumerate(("shrink", "factorize", "fold_batch_norm", "fold_weights"))
    for j, second in enumerate(("shrink", "factorize", "fold_batch_norm", "fold_weights", "quantize", "qat"))
]


def half_of(leaf: jax.Array) -> jax.Array:
    """A leaf of which the last half of the last axis is 0."""
    return leaf.at[..., leaf.shape[-1] // 2 :].set(0) if leaf.ndim > 1 else leaf


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_it_comes_back(path: Path, network: Any, made: tuple[Any, Any]) -> None:
    f, params, x = network
    new, small = made
    jc.rewrite.save(path, new, small)
    shapes = jax.eval_shape(lambda: params)
    again, loaded = jc.rewrite.load(path, f, shapes, jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert jax.tree.structure(loaded) == jax.tree.structure(small)
    assert bits(loaded) == bits(small)
    assert bits(jax.jit(again)(loaded, x)) == bits(jax.jit(new)(small, x))
    assert repr(again) == repr(new)
    assert str(again.report) == str(new.report)
    pairs = zip(again.decisions, new.decisions, strict=True)
    assert all(to_json(a.data, "") == to_json(b.data, "") for a, b in pairs)


@LAW
def test_it_comes_back_from_its_file(name: str, network: str, tmp_path: Path) -> None:
    own = NETWORKS[network]
    assert_it_comes_back(tmp_path / "m.jcz", own, REWRITES[name](*own))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_after_another_it_comes_back_too(first: str, second: str, tmp_path: Path) -> None:
    f, params, x = own = NETWORKS["convolutional"]
    made = REWRITES[second](*REWRITES[first](f, params, x), x)
    assert [each.name for each in made[0].decisions] == [each.split("-")[0] for each in (first, second)]
    assert_it_comes_back(tmp_path / "m.jcz", own, made)


@pytest.mark.parametrize("name", ["factorize", "fold_batch_norm", "fold_weights", "quantize", "qat"])
def test_codes_are_not_rewritten_again(name: str) -> None:
    f, params, x = NETWORKS["convolutional"]
    between = REWRITES["quantize-blocks"](f, params, x)
    with pytest.raises(ArgumentError, match="codes"):
        REWRITES[name](*between, x)


def test_ptq_comes_back(tmp_path: Path) -> None:
    f, params, x = own = NETWORKS["convolutional"]
    new = jc.posttrain.ptq(f, params, [x], jc.rewrite.Scheme(bits=4))
    assert [each.name for each in new.apply_fn.decisions] == ["fold_batch_norm", "quantize"]
    assert_it_comes_back(tmp_path / "m.jcz", own, (new.apply_fn, new.params))


def test_training_ends_in_integers_that_come_back(tmp_path: Path) -> None:
    f, params, x = own = NETWORKS["dense"]
    new, both = jc.rewrite.qat(f, params, [x])
    assert_it_comes_back(tmp_path / "m.jcz", own, new.quantized(both, x))


def test_another_process_computes_the_same_bits(tmp_path: Path) -> None:
    path, (f, params, x) = tmp_path / "m.jcz", NETWORKS["convolutional"]
    folded = jc.rewrite.fold_batch_norm(f, params, x)
    new, small = REWRITES["quantize"](*REWRITES["shrink"](*folded, x), x)
    jc.rewrite.save(path, jax.jit(new), small)
    code = "import sys; from tests.laws import test_rewrites as t; t.print_bits(sys.argv[1])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == [each.hex() for each in bits(jax.jit(new)(small, x))]
    shown = subprocess.run(
        [sys.executable, "-m", "jaxcomp", "inspect", path], capture_output=True, text=True, check=True
    )
    first = shown.stdout.split("\n")[0]
    assert first.startswith("rewrites: fold_batch_norm (1 kernels) -> shrink (")
    assert first.endswith("-> quantize (3 weights of 5 bits)")


def print_bits(path: str) -> None:
    """What the other process does."""
    f, params, x = networks()["convolutional"]
    again, loaded = jc.rewrite.load(Path(path), f, jax.eval_shape(lambda: params), x)
    print(*(each.hex() for each in bits(jax.jit(again)(loaded, x))))


def mlp(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["up"]) @ p["down"]


MLP = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 2))}
X = jnp.ones((1, 4))


def halved() -> Any:
    return jc.rewrite.shrink(mlp, MLP, X, keep={"up": np.arange(8) < 6})


def wrapped() -> Any:
    inner, small = halved()

    def logged(p: Any, x: Any) -> Any:
        return inner(p, x) + 1

    logged.__wrapped__ = inner
    return jc.rewrite.factorize(logged, small, X, rank=1, cheaper=False)


def of_a_fit_of_ones_own() -> Any:
    scheme = jc.rewrite.Scheme(4, inputs=None, fit=lambda groups, format: jc.quant.min_max()(groups, format))
    return jc.rewrite.fake_quantize(mlp, MLP, X, scheme=scheme)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: (mlp, MLP), "save stores functions that a rewrite returned"),
        (lambda: (halved()[0], MLP), "the function that shrink returned needs the parameters"),
        (wrapped, "between two rewrites stands code of its own"),
        (of_a_fit_of_ones_own, "the decision of fake_quantize, scheme, fit cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_when_it_is_saved(make: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=match):
        jc.rewrite.save(tmp_path / "m.jcz", *make())
    assert not list(tmp_path.iterdir())


def test_another_function_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.jcz"
    jc.rewrite.save(path, *halved())
    other = {"in": MLP["up"], "down": MLP["down"]}
    with pytest.raises(ArtifactError, match=r"shrink cannot be done again .*no group is called 'up'"):
        jc.rewrite.load(path, lambda p, x: mlp({"up": p["in"], **p}, x), other, X)
    with pytest.raises(ArtifactError, match="is not like the tree given: 'down' needs to be bfloat16"):
        jc.rewrite.load(path, mlp, jax.tree.map(lambda leaf: leaf.astype("bfloat16"), MLP), X)
    jc.pack.save(path, MLP)
    with pytest.raises(ArtifactError, match="holds parameters and no rewritten function"):
        jc.rewrite.load(path, mlp, MLP, X)


def test_a_fold_that_is_not_found_again_is_told(tmp_path: Path) -> None:
    f, params, x = NETWORKS["convolutional"]
    jc.rewrite.save(tmp_path / "m.jcz", *jc.rewrite.fold_batch_norm(f, params, x))

    def without_norm(p: Any, x: Any) -> Any:
        return f({**p, "mean": p["mean"] + x.mean((0, 1, 2))[:1]}, x)

    with pytest.raises(ArtifactError, match="finds other things to fold than it did when this was stored: into"):
        jc.rewrite.load(tmp_path / "m.jcz", without_norm, params, x)


def test_the_example_is_traced_once() -> None:
    def counted() -> tuple[list[Any], Callable[..., Any]]:
        traced = []

        def function(p: Any, x: Any) -> Any:
            traced.append(x.shape)
            return mlp(p, x)

        return traced, function

    traced, function = counted()
    new, small = jc.rewrite.shrink(function, MLP, X, keep={"up": np.arange(8) < 6})
    new(small, X)
    assert traced == [(1, 4)]
    new(small, jnp.ones((3, 4)))
    assert traced == [(1, 4), (3, 4)]
    traced, function = counted()
    new, small = jc.rewrite.quantize(function, MLP, X, scheme=jc.rewrite.Scheme(inputs="dynamic"))
    new(small, X)
    assert traced == [(1, 4)]
