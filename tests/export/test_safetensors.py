"""A .safetensors file gives back the very bits, is read by the format's own reader, and tells what it cannot hold."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxcomp import export
from jaxcomp.core.errors import ArgumentError, ArtifactError, MissingExtraError
from jaxcomp.export.safetensors import BYTES, NATIVE
from jaxcomp.rewrite import Scheme, quantize, restore, shrink

numpy_reader = pytest.importorskip("safetensors.numpy")
SMALL = sorted({*NATIVE.values(), *BYTES} - {"float64", "int64", "uint64"})
PARAMS = {"params": {"Conv_0": {"kernel": jnp.arange(54.0).reshape(3, 3, 2, 3), "bias": jnp.arange(3.0)}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


@pytest.mark.parametrize("dtype", SMALL)
def test_every_type_comes_back(path: Path, dtype: str) -> None:
    bits = np.arange(24, dtype=np.uint8).reshape(4, 6) % 2
    tree = {"a": jnp.asarray(bits).astype(dtype), "b": [jnp.zeros((0, 3), dtype), jnp.ones((), dtype)]}
    assert export.safetensors(path, tree) == path.stat().st_size
    loaded = export.load_safetensors(path, tree).params
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert same(loaded, tree)


@pytest.mark.parametrize("container", [dict, FrozenDict, nnx.State])
def test_containers_come_back_in_the_names_of_another_framework(path: Path, container: Any) -> None:
    tree = container(PARAMS)
    export.safetensors(path, tree, names=export.torch_names(tree), metadata={"format": "pt"})
    theirs = numpy_reader.load_file(path)
    assert {name: array.shape for name, array in theirs.items()} == {
        "Conv_0.weight": (3, 2, 3, 3),
        "Conv_0.bias": (3,),
    }
    x = jnp.arange(2 * 5 * 5.0).reshape(1, 5, 5, 2)
    kernel = PARAMS["params"]["Conv_0"]["kernel"]
    ours = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    numbers = jax.lax.conv_dimension_numbers(x.shape, (3, 2, 3, 3), ("NHWC", "OIHW", "NHWC"))
    torchs = jax.lax.conv_general_dilated(x, theirs["Conv_0.weight"], (1, 1), "SAME", dimension_numbers=numbers)
    np.testing.assert_array_equal(ours, torchs)
    held = export.load_safetensors(path, tree)
    assert held.metadata == {"format": "pt"}
    assert held.decisions == ()
    assert same(held.params, tree)


def test_names_of_every_kind_of_parameter() -> None:
    shapes = {
        "params": {
            "BatchNorm_0": {"scale": (4,), "bias": (4,)},
            "Dense_0": {"kernel": (3, 4)},
            "e": {"embedding": (9, 4)},
        },
        "batch_stats": {"BatchNorm_0": {"mean": (4,), "var": (4,)}},
        "heads": {"kernel": (4, 2, 8)},
    }
    tree = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda node: isinstance(node, tuple))
    assert {path: tuple(name) for path, name in export.torch_names(tree).items()} == {
        "params/BatchNorm_0/scale": ("BatchNorm_0.weight", None),
        "params/BatchNorm_0/bias": ("BatchNorm_0.bias", None),
        "params/Dense_0/kernel": ("Dense_0.weight", (1, 0)),
        "params/e/embedding": ("e.weight", None),
        "batch_stats/BatchNorm_0/mean": ("BatchNorm_0.running_mean", None),
        "batch_stats/BatchNorm_0/var": ("BatchNorm_0.running_var", None),
        "heads/kernel": ("heads.weight", None),
    }


def test_a_rewritten_function_is_made_again_from_its_file(path: Path) -> None:
    params = {"up": jnp.linspace(-1, 1, 32).reshape(4, 8), "down": jnp.linspace(-1, 2, 16).reshape(8, 2)}
    mlp = lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"]  # noqa: E731
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    small_fn, small = shrink(mlp, params, x, keep={"up": np.arange(8) < 6})
    fn, packed = quantize(small_fn, small, x, scheme=Scheme(bits=4, inputs=None))
    export.safetensors(path, packed, fn=jax.jit(fn), names=export.torch_names(packed))
    codes = [array for name, array in numpy_reader.load_file(path).items() if "codes" in name]
    assert len(codes) == 2
    assert all(np.abs(array).max() <= 8 for array in codes if array.dtype == np.int8)
    held = export.load_safetensors(path)
    again, shapes = restore(mlp, params, x, decisions=held.decisions)
    loaded = export.load_safetensors(path, shapes).params
    np.testing.assert_array_equal(again(loaded, x), fn(packed, x))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"params": {"a": "text"}}, "a"),
        ({"params": {"a": jnp.ones(1)}, "names": {"b": "c"}}, "'b', which is no parameter"),
        ({"params": {"a": jnp.ones(1), "b": jnp.ones(1)}, "names": {"b": "a"}}, "both called 'a'"),
        ({"params": {"a": jnp.ones((2, 3))}, "names": {"a": ("a", (0, 0))}}, "no order"),
        ({"params": {"a": jnp.ones(1)}, "metadata": {"epoch": 3}}, "text by name"),
        ({"params": {"a": jnp.ones(1)}, "metadata": {"jaxcomp": ""}}, "is taken"),
        ({"params": {"a": jnp.ones(1)}, "fn": abs}, "a function that a rewrite returned"),
    ],
)
def test_what_no_file_holds_is_an_error(path: Path, given: dict[str, Any], said: str) -> None:
    path.write_bytes(b"before")
    with pytest.raises(ArgumentError, match=said):
        export.safetensors(path, **given)
    assert path.read_bytes() == b"before"


def test_random_keys_come_back(path: Path) -> None:
    key = jax.random.key(3)
    export.safetensors(path, {"a": key})
    assert export.load_safetensors(path, like={"a": key}).params["a"] == key


def test_other_files_and_other_trees_are_errors(path: Path) -> None:
    export.safetensors(path, PARAMS, names=export.torch_names(PARAMS))
    with pytest.raises(ArtifactError, match="needed and not in the file"):
        export.load_safetensors(path, {"w": jnp.ones(3)})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    header = int.from_bytes(whole[:8], "little") + 8
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(header)] = rng.integers(256)
        path.write_bytes(changed[: rng.integers(len(whole)) if rng.random() < 0.2 else None])
        try:
            held = export.load_safetensors(path)
        except ArtifactError:
            continue
        assert sum(array.nbytes for array in held.params.values()) <= len(whole)


def test_without_the_package_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["jaxcomp.export.safetensors"], "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"jaxcomp\[safetensors\]"):
        export.safetensors(path, PARAMS)
