"""A .tflite file computes what the function computes, in LiteRT's own runtime: in integers where it was quantized."""

import functools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.export import symbolic_args_specs
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxcomp import export
from jaxcomp.core.errors import ArgumentError, MissingExtraError
from jaxcomp.rewrite import Scheme, calibrate, choose, factorize, fold_batch_norm, quantize, shrink
from tests.export.networks import MARKS, conv, random_network
from tests.train.models.tiny import TINY, made
from train.bench.scale import peak

litert_converter = pytest.importorskip("litert_converter", reason="jaxcomp[litert] is not installed")
runtime = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

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
    model.allocate_tensors()
    for own in model.get_input_details():
        index = int(own["name"].split("x")[-1].split(":")[0] or 0) if len(inputs) > 1 else 0
        model.set_tensor(own["index"], np.asarray(inputs[index]))
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


def test_means_over_padded_windows_are_pools(path: Path) -> None:
    params = {"w": jnp.linspace(-1, 1, 12).reshape(1, 1, 3, 4)}

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return nn.avg_pool(jax.nn.relu(conv(x, p["w"])), (3, 3), (2, 2), "SAME")

    new, packed = quantize(fn, params, IMAGES, ranges=calibrate(fn, params, [IMAGES]))
    for own, given, kind, far in ((fn, params, "FLOAT32", 1e-5), (new, packed, "INT8", 0.05)):
        report = export.litert(path, own, given, IMAGES, batches=[IMAGES])
        assert [each.types[0] for each in report.operations if each.name == "AVERAGE_POOL_2D"] == [kind]
        assert furthest(run(path, IMAGES), own(given, IMAGES)) < far


def test_what_is_alike_is_stored_once_and_weights_lie_where_runtimes_read_them(path: Path) -> None:
    params = [jnp.asarray(np.random.default_rng(i).standard_normal((256, 256)), jnp.float32) / 16 for i in range(4)]
    fn = lambda p, x: functools.reduce(jnp.matmul, p, x)  # noqa: E731
    new, packed = quantize(fn, params, jnp.ones((1, 256)), ranges=calibrate(fn, params, [jnp.ones((4, 256))]))
    report = export.litert(path, new, packed, jnp.ones((1, 256)), batches=[jnp.ones((4, 256))])
    assert report.bytes < 4 * 256 * (256 + 4) + 256 * 8 + 4096  # codes, scales, one vector of zero points
    own = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    tables = [own.Buffers(i)._tab for i in range(own.BuffersLength()) if own.Buffers(i).DataLength()]
    starts = [table.Vector(table.Offset(4)) for table in tables]
    assert starts
    assert not any(start % 16 for start in starts)


def test_sizes_are_numbers(path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"sizes that are numbers, got \[batch,16,16,3\]: give each batch"):
        export.litert(path, *residual(), *symbolic_args_specs((IMAGES,), "batch, ..."))


def test_shortcuts_that_skip_places_and_pad_channels_are_in_integers(path: Path) -> None:
    normal = np.random.default_rng(0).standard_normal
    params = [jnp.asarray(normal(shape) / 5, jnp.float32) for shape in ((3, 3, 3, 4), (3, 3, 4, 8), (3, 3, 8, 8))]

    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(conv(x, p[0]))
        x = jax.nn.relu(jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2))) + conv(x, p[1], 2))
        return jax.nn.relu(x + conv(x, p[2])).mean((1, 2))

    new, packed = quantize(fn, params, IMAGES, ranges=calibrate(fn, params, [IMAGES]))
    report = export.litert(path, new, packed, IMAGES, batches=[IMAGES])
    assert [each.types[0] for each in report.operations if each.name == "ADD"] == ["INT8"] * 2
    assert furthest(run(path, IMAGES), new(packed, IMAGES)) < 0.05


@pytest.mark.parametrize(
    "seeds",
    [(29, 47, 143), *(pytest.param(range(i, i + 10), marks=MARKS[i > 0]) for i in range(0, 200, 10))],
    ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}",
)
def test_random_networks(seeds: Sequence[int], path: Path) -> None:
    for seed in seeds:
        fn, params = random_network(seed)
        x = jnp.asarray(np.random.default_rng(1000 + seed).standard_normal((2, 7, 6, 3)), jnp.float32)
        scheme = Scheme(bits=4 if seed % 2 else 8)
        export.litert(path, fn, params, x)
        assert furthest(run(path, x), jax.jit(fn)(params, x)) < 1e-4, seed
        new, packed = quantize(fn, params, x, scheme=scheme, ranges=calibrate(fn, params, [x], scheme))
        assert export.litert(path, new, packed, x, batches=[x]).float_products == (), seed
        assert furthest(run(path, x), new(packed, x)) < 0.2, seed


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


def test_what_lies_on_a_mesh_is_written_too(path: Path) -> None:
    apply_fn, params = residual()
    fn, packed = quantize(apply_fn, params, IMAGES[:1], ranges=calibrate(apply_fn, params, [IMAGES]))
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    for own, given, far in ((apply_fn, params, 1e-4), (fn, packed, 0.05)):
        wanted = own(given, IMAGES)
        with jax.set_mesh(mesh):
            laid, images = jax.device_put((given, IMAGES), NamedSharding(mesh, PartitionSpec()))
            export.litert(path, own, laid, images, batches=[images])
        assert furthest(run(path, IMAGES), wanted) < far


def test_labels_lie_behind_the_network(path: Path) -> None:
    texts = {"labels.txt": "cat\nDrüse", "normalization.json": '{"mean": [0.5]}'}
    report = export.litert(path, *residual(), IMAGES[:2], metadata=texts)
    assert report.bytes == path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == texts
    fn, params = residual()
    assert furthest(run(path, IMAGES[:2]), fn(params, IMAGES[:2])) < 1e-4
    with pytest.raises(ArgumentError, match="metadata must be texts by name, got int at 'classes'"):
        export.litert(path, fn, params, IMAGES[:2], metadata={"classes": 2})  # type: ignore[dict-item]


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
