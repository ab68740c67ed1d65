"""A .tflite file computes what the function computes, in LiteRT's own runtime: in integers where it was quantized."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.export import symbolic_args_specs

from jaxcomp import export
from jaxcomp.core.errors import ArgumentError, MissingExtraError
from jaxcomp.rewrite import Scheme, calibrate, choose, factorize, fold_batch_norm, quantize, shrink
from tests.train.models.tiny import TINY, made
from train.bench.scale import peak

litert_converter = pytest.importorskip("litert_converter", reason="jaxcomp[litert] is not installed")
runtime = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16, 16, 3)), jnp.float32)
INTEGERS = ("alexnet", "convnext", "densenet", "ghostnet", "mobilenet_v2", "resnet", "shufflenet_v2", "unet")
"""All of whose products are computed in integers, but for transposed convolutions."""


class Residual(nn.Module):
    """A convolution, a block with a shortcut, a mean, a head."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(x))
        y = nn.Conv(8, (3, 3))(nn.relu(nn.Conv(8, (3, 3))(x)))
        return nn.Dense(5)(nn.relu(x + y).mean((1, 2)))


@functools.cache
def residual() -> tuple[Any, Any]:
    return Residual().apply, Residual().init(jax.random.key(0), IMAGES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.tflite"


def run(path: Path, *inputs: Any) -> list[np.ndarray]:
    """The results of a file, in its runtime."""
    model = runtime.Interpreter(model_path=str(path))
    given = {int(own["name"].split("x")[-1].split(":")[0] or 0): own["index"] for own in model.get_input_details()}
    for number, index in given.items():
        model.resize_tensor_input(index, np.shape(inputs[number]))
    model.allocate_tensors()
    for number, index in given.items():
        model.set_tensor(index, np.asarray(inputs[number]))
    model.invoke()
    return [model.get_tensor(own["index"]) for own in model.get_output_details()]


def furthest(found: list[np.ndarray], wanted: Any) -> float:
    """The greatest difference, in standard deviations of what is wanted."""
    pairs = [[(a, np.asarray(b)) for a in found if a.shape == b.shape] for b in jax.tree.leaves(wanted)]
    return max(min(float(np.abs(a - b).max() / b.std()) for a, b in each) for each in pairs)


def test_a_quantized_network_runs_in_integers_alone(path: Path) -> None:
    apply_fn, params = residual()
    ranges = calibrate(apply_fn, params, [IMAGES])
    fn, packed = quantize(apply_fn, params, IMAGES[:1], ranges=ranges)
    report = export.litert(path, jax.jit(fn), packed, IMAGES[:2], batches=[IMAGES])
    assert report.bytes == path.stat().st_size
    assert report.float_products == ()
    assert {"CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"} <= {each.name for each in report.operations}
    assert "0 convolutions and matmuls in floating point" in str(report)
    assert furthest(run(path, IMAGES[:2]), fn(packed, IMAGES[:2])) < 0.05


@pytest.mark.parametrize(
    ("scheme", "kinds"),
    [
        (Scheme(4), {"INT4"}),
        (Scheme(2), {"INT4"}),
        (Scheme(8, inputs=None), {"FLOAT32"}),
        (Scheme(8, input_bits=4), {"INT8"}),
        (Scheme(8, inputs="dynamic"), {"FLOAT32"}),
        (Scheme(8, symmetric=False, inputs=None), {"FLOAT32"}),
    ],
    ids=str,
)
def test_schemes(path: Path, scheme: Scheme, kinds: set[str]) -> None:
    apply_fn, params = residual()
    ranges = calibrate(apply_fn, params, [IMAGES], scheme) if scheme.inputs == "static" else None
    fn, packed = quantize(apply_fn, params, IMAGES[:1], scheme=scheme, ranges=ranges)
    report = export.litert(path, fn, packed, IMAGES[:2], batches=[IMAGES])
    products = [each for each in report.operations if each.name in ("CONV_2D", "FULLY_CONNECTED")]
    assert {each.types[1] for each in products} == kinds
    assert furthest(run(path, IMAGES[:2]), fn(packed, IMAGES[:2])) < 0.05


@pytest.mark.parametrize("name", INTEGERS)
def test_networks_in_integers(path: Path, name: str) -> None:
    apply_fn, params = made(name).apply, jax.jit(made(name).init)(jax.random.key(0), IMAGES)
    apply_fn, params = fold_batch_norm(apply_fn, params, IMAGES[:1])
    assert export.litert(path, apply_fn, params, IMAGES[:2]).float_products
    assert furthest(run(path, IMAGES[:2]), jax.jit(apply_fn)(params, IMAGES[:2])) < 1e-4
    fn, packed = quantize(apply_fn, params, IMAGES[:2], ranges=calibrate(apply_fn, params, [IMAGES]))
    left = {each.name for each in export.litert(path, fn, packed, IMAGES[:2], batches=[IMAGES]).float_products}
    assert left == ({"TRANSPOSE_CONV"} if name == "unet" else set())
    assert furthest(run(path, IMAGES[:2]), fn(packed, IMAGES[:2])) < 0.25


def test_a_transformer_multiplies_its_weights_in_integers(path: Path) -> None:
    apply_fn, params = made("vit").apply, jax.jit(made("vit").init)(jax.random.key(0), IMAGES)
    fn, packed = quantize(apply_fn, params, IMAGES[:2], ranges=calibrate(apply_fn, params, [IMAGES]))
    report = export.litert(path, fn, packed, IMAGES[:2], batches=[IMAGES])
    integers = [each for each in report.operations if each.name == "FULLY_CONNECTED" and each.types[0] == "INT8"]
    assert len(integers) >= 4
    assert furthest(run(path, IMAGES[:2]), fn(packed, IMAGES[:2])) < 0.25


def test_weights_go_to_the_converter_beside_the_text(path: Path) -> None:
    params = [jnp.full((1024, 1024), i, jnp.float32) for i in range(16)]
    before = peak(reset=True)
    report = export.litert(path, lambda p, x: functools.reduce(jnp.matmul, p, x), params, jnp.ones((1, 1024)))
    assert report.bytes > 64 * 2**20
    assert peak() - before < 6 * report.bytes  # in the text 8 times


def test_another_batch_is_taken_by_the_runtime(path: Path) -> None:
    apply_fn, params = residual()
    fn, packed = quantize(apply_fn, params, IMAGES[:1], ranges=calibrate(apply_fn, params, [IMAGES]))
    for own, given, far in ((apply_fn, params, 1e-4), (fn, packed, 0.05)):
        export.litert(path, own, given, IMAGES[:1], batches=[IMAGES])
        assert furthest(run(path, IMAGES), own(given, IMAGES)) < far
    with pytest.raises(ArgumentError, match=r"sizes that are numbers, got \[batch,16,16,3\].*resize_tensor_input"):
        export.litert(path, apply_fn, params, *symbolic_args_specs((IMAGES,), "batch, ..."))


def test_an_input_that_nothing_reads_is_the_files_too(path: Path) -> None:
    export.litert(path, lambda p, x, y: x @ p, jnp.eye(3), jnp.ones((2, 3)), jnp.ones((2, 3)))
    (found,) = run(path, np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32))
    assert np.array_equal(found, np.ones((2, 3)))


def test_every_tiny_model_is_known() -> None:
    assert set(INTEGERS) <= TINY.keys()


@pytest.mark.parametrize("change", ["shrunk", "factorized", "nnx", "two inputs", "scan"])
def test_other_functions(path: Path, change: str) -> None:
    apply_fn, params = residual()
    inputs: tuple[Any, ...] = (IMAGES[:2],)
    if change == "shrunk":
        apply_fn, params = shrink(apply_fn, params, IMAGES[:1], keep=choose(0.5))
    elif change == "factorized":
        apply_fn, params = factorize(apply_fn, params, IMAGES[:1], rank=2)
    elif change == "nnx":
        graph, params = nnx.split(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
        apply_fn = lambda state, x: nnx.merge(graph, state)(x)  # noqa: E731
    elif change == "two inputs":
        params = {"w": jnp.linspace(-1, 1, 9).reshape(3, 3)}
        apply_fn = lambda p, x, y: {"sum": x @ p["w"] + y, "gate": jax.nn.sigmoid(y)[..., :2]}  # noqa: E731
        inputs = (IMAGES[0], IMAGES[1])
    else:
        params = {"w": jnp.linspace(-1, 1, 9).reshape(3, 3)}
        apply_fn = lambda p, x: jax.lax.scan(lambda h, x: (jnp.tanh(h @ p["w"] + x), None), x[0], x)[0]  # noqa: E731
        inputs = (IMAGES[0, 0],)
    report = export.litert(path, apply_fn, params, *inputs)
    assert furthest(run(path, *inputs), jax.jit(apply_fn)(params, *inputs)) < 1e-4, report


def test_code_around_a_quantized_function_is_part_of_the_file(path: Path) -> None:
    apply_fn, params = residual()
    fn, packed = quantize(apply_fn, params, IMAGES[:1], ranges=calibrate(apply_fn, params, [IMAGES]))
    around = lambda p, x: {"logits": fn(p, x / 2 + x / 2), "bits": jnp.sum(x, (1, 2, 3))}  # noqa: E731
    report = export.litert(path, around, packed, IMAGES[:2], batches=[IMAGES])
    assert report.float_products == ()
    assert furthest(run(path, IMAGES[:2]), around(packed, IMAGES[:2])) < 0.05


def test_pixels_are_normalized_inside(path: Path) -> None:
    apply_fn, params = residual()
    pixels = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)
    normalize = lambda pixels: ((pixels.astype(jnp.float32) / 255 - 0.5) / 0.25,)  # noqa: E731
    batches = [normalize(jnp.asarray(pixels))]
    fn, packed = quantize(apply_fn, params, IMAGES[:1], ranges=calibrate(apply_fn, params, batches))
    report = export.litert(path, fn, packed, pixels, batches=batches, preprocess=normalize, names=["pixels"])
    assert report.float_products == ()
    model = runtime.Interpreter(model_path=str(path))
    (signature,) = model.get_signature_list().values()
    assert signature["inputs"] == ["pixels"]
    assert furthest(run(path, pixels), fn(packed, *normalize(jnp.asarray(pixels)))) < 0.05


def test_what_cannot_be_is_an_error_and_no_file(path: Path) -> None:
    apply_fn, params = residual()
    fn, packed = quantize(apply_fn, params, IMAGES[:1], ranges=calibrate(apply_fn, params, [IMAGES]))
    with pytest.raises(ArgumentError, match=r"3 values that are handed on .* give batches="):
        export.litert(path, fn, packed, IMAGES[:1])
    with pytest.raises(ArgumentError, match="names are to be 1 different"):
        export.litert(path, apply_fn, params, IMAGES[:1], names=["a", "b"])
    with pytest.raises(ArgumentError, match="converter refuses"):
        export.litert(path, lambda p, x: jnp.linalg.eigh(x[0, :3, :3, 0] * p["w"])[0], {"w": jnp.ones(())}, IMAGES[:1])
    assert not path.exists()


def test_without_the_converter_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules["jaxcomp.export.litert"], "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"jaxcomp\[litert\]"):
        export.litert(path, abs, {}, jnp.ones(1))
