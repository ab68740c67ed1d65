"""An ONNX file computes in ONNX Runtime what the function computes: floats to rounding, integers to a step."""

import functools
import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp import export, rewrite
from jaxcomp.core.errors import ArgumentError, MissingExtraError
from jaxcomp.rewrite import Scheme, calibrate, factorize, fold_batch_norm, quantize, shrink
from tests.export.networks import MARKS, conv, random_network
from tests.rewrite.channels.test_models import CASES, Case, prepared
from train.bench.scale import peak

onnx = pytest.importorskip("onnx", reason="needs the package onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

Function = Callable[..., Any]
MODELS = [name for name, case in CASES.items() if not case.train]
DEFAULT = ("resnet", "mobile", "vit", "lstm", "unet", "nnx_bottleneck")
"""Of each kind of network one; the others are exhaustive."""

INPUTS = {"input": (8, 8, 3)}
RNG = np.random.default_rng(0)


def normal(*shape: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape) * scale, jnp.float32)


def ran(file: Path, *inputs: Any) -> list[np.ndarray]:
    """A file's results in ONNX Runtime."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # else it rounds inputs to 8 bits
    session = runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    given = {port.name: np.asarray(x) for port, x in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, given)


def optimized(file: Path) -> Counter[str]:
    """What ONNX Runtime runs."""
    options, made = runtime.SessionOptions(), file.with_suffix(".optimized")
    options.optimized_model_filepath, options.log_severity_level = str(made), 3
    runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(made).graph.node)


def off(file: Path, fn: Function, params: Any, *inputs: Any) -> float:
    """The greatest difference between a file's results and a function's, in units of the greatest result."""
    ours = jax.tree.leaves(jax.jit(fn)(params, *inputs))
    pairs = list(zip(ran(file, *inputs), ours, strict=True))
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-9)) for a, b in pairs if a.size)


def numbers(case: Case) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(case.example.shape), case.example.dtype)


@pytest.mark.parametrize("name", [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.exhaustive) for n in MODELS])
def test_models_as_they_are(name: str, tmp_path: Path) -> None:
    fn, params = prepared(CASES[name])
    x, file = numbers(CASES[name]), tmp_path / "model.onnx"
    for shapes in (None, "batch, ..."):
        report = export.onnx(file, fn, params, x, shapes=shapes)
        assert report.integer_sites == 0 < report.float_sites
        assert off(file, fn, params, x) <= 1e-5
    assert onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_random_keys_among_parameters(tmp_path: Path) -> None:
    params, x = {"w": normal(4), "key": jax.random.key(0), "other": jax.random.split(jax.random.key(1))}, normal(2, 4)
    fn = lambda p, x: x * p["w"] + jax.random.uniform(p["key"], (4,))  # noqa: E731
    export.onnx(tmp_path / "model.onnx", fn, params, x)
    assert off(tmp_path / "model.onnx", fn, params, x) <= 1e-5


def test_any_batch_is_taken(tmp_path: Path) -> None:
    fn, params = prepared(CASES["cnn"])
    export.onnx(tmp_path / "model.onnx", fn, params, CASES["cnn"].example, shapes="batch, ...")
    for count in (1, 5):
        assert off(tmp_path / "model.onnx", fn, params, normal(count, *CASES["cnn"].example.shape[1:])) <= 1e-5


def test_convolutions_in_a_row_need_one_transpose(tmp_path: Path) -> None:
    fn, params = prepared(CASES["resnet"])
    report = export.onnx(tmp_path / "model.onnx", fn, params, CASES["resnet"].example)
    assert report.operators["Transpose"] == 1


@jax.custom_vjp
def own_vjp(w: Any, x: Any) -> Any:
    return jnp.tanh(x) * w


own_vjp.defvjp(lambda w, x: (own_vjp(w, x), (w, x)), lambda known, g: (g.sum((0, 1, 2)), g * known[0]))


@jax.custom_jvp
def own_jvp(w: Any, x: Any) -> Any:
    return x @ w


@own_jvp.defjvp
def _(given: Any, tangents: Any) -> Any:
    (w, x), (dw, dx) = given, tangents
    return x @ w, dx @ w + x @ dw


HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
PRIMITIVES: dict[str, tuple[Function, tuple[int, ...]]] = {
    "depthwise": (lambda w, x: conv(x, w, feature_group_count=4), (3, 3, 1, 8)),
    "grouped": (lambda w, x: conv(x, w, 2, feature_group_count=2), (3, 3, 2, 6)),
    "dilated": (lambda w, x: conv(x, w, padding=((2, 1), (0, 3)), rhs_dilation=(2, 1)), (3, 3, 4, 5)),
    "cropping": (lambda w, x: conv(x, w, padding=((-1, 0), (1, -1))), (3, 3, 4, 5)),
    "transposed": (lambda w, x: conv(x, w, padding=((1, 2), (3, 1)), lhs_dilation=(2, 2)), (3, 3, 4, 5)),
    "transposed far": (lambda w, x: conv(x, w, padding=((3, 2), (0, 4)), lhs_dilation=(2, 3)), (2, 2, 4, 5)),
    "transposed grouped": (
        lambda w, x: conv(x, w, padding=((2, 2), (2, 2)), lhs_dilation=(2, 2), feature_group_count=2), (3, 3, 2, 6),
    ),
    "rows": (lambda w, x: jnp.einsum("bhwc,hcd->bhdw", x, w), (6, 4, 3)),
    "from the left": (lambda w, x: jnp.einsum("dh,bhwc->dbwc", w, x), (3, 6)),
    "attention": (lambda w, x: jnp.einsum("bhwc,bhvc->bhwv", x, x * w), (4,)),
    "many summed": (lambda w, x: jnp.einsum("bhwc,hwcd->bd", x, w), (6, 5, 4, 3)),
    "pools": (
        lambda w, x: (
            lax.reduce_window(x * w, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), "SAME")
            + lax.reduce_window(x, 0.0, lax.add, (1, 3, 2, 1), (1, 2, 1, 1), "SAME") / 6
        ), (4,),
    ),
    "gates": (lambda w, x: jax.nn.hard_swish(x) * jax.nn.sigmoid(x) + jax.nn.softplus(x * w), (4,)),
    "gelu": (lambda w, x: jax.nn.gelu(x * w) + jax.nn.gelu(x, approximate=False), (4,)),
    "powers": (lambda w, x: x**3 + jnp.abs(x * w) ** 0.3 + lax.rsqrt(x * x + 1) + x**-1 + jnp.exp2(x), (4,)),
    "rounding": (lambda w, x: jnp.round(8 * x) + lax.round(8 * x * w) + jnp.floor(x) + jnp.sign(x), (4,)),
    "softmax": (lambda w, x: jax.nn.softmax(x * w, 1) + jax.nn.log_softmax(x), (4,)),
    "selects": (lambda w, x: jnp.where((x > w) | (x < -1), jnp.clip(x, -0.5, 0.7), x.min()), (4,)),
    "indices": (lambda w, x: jnp.take(w, jnp.argmax(x, 2), 0) + x[:, ::-1, -1][..., None], (5, 3)),
    "grids": (lambda w, x: x[:, jnp.array([0, 2, 4])][:, :, ::2] * w, (4,)),
    "repeats": (lambda w, x: jnp.tile(x, (1, 2, 1, 1)).repeat(2, 2) * w, (4,)),
    "resized": (lambda w, x: jax.image.resize(x * w, (2, 9, 10, 4), "bilinear"), (4,)),
    "pads": (lambda w, x: lax.pad(x * w, 0.5, ((0, 0, 0), (1, -2, 0), (0, 2, 1), (0, 0, 0))), (4,)),
    "sorted": (lambda w, x: jnp.sort(x * w, 1) + lax.top_k(x, 2)[0].sum(-1, keepdims=True), (4,)),
    "sums": (lambda w, x: jnp.cumsum(x * w, 1) + x.prod(2, keepdims=True) + jnp.any(x > 2, 1, keepdims=True), (4,)),
    "updates": (lambda w, x: lax.dynamic_update_slice(x, x[:, :2] * w, (0, 3, 0, 0)), (4,)),
    "carried": (lambda w, x: lax.scan(lambda h, r: (jnp.tanh(h * w + r), h), x[:, 0], x.swapaxes(0, 1))[1], (4,)),
    "counted": (lambda w, x: lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h * w + i), x), (4,)),
    "half read": (lambda w, x: lax.scan(lambda h, r: (h + r, (h * r, h - r)), x[0] * w, x)[1][0], (4,)),
    "derivatives of its own": (own_vjp, (4,)),
    "drawn": (lambda w, x: x * w + jax.random.normal(jax.random.fold_in(jax.random.key(0), 1), (5, 4)), (4,)),
    "placed": (lambda w, x: lax.with_sharding_constraint(x * w, HERE), (4,)),
    "branches": (lambda w, x: lax.cond(x.sum() > 0, lambda x: x * w, lambda x: x - w, x), (4,)),
    "merged": (lambda w, x: conv(x, w).reshape(2, 30, 2, 2).swapaxes(1, 2).reshape(4, -1), (3, 3, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives(name: str, tmp_path: Path) -> None:
    fn, shape = PRIMITIVES[name]
    params, x = normal(*shape), normal(2, 6, 5, 4)
    export.onnx(tmp_path / "model.onnx", fn, params, x)
    assert off(tmp_path / "model.onnx", fn, params, x) <= 1e-5


def small(p: Any, x: jax.Array) -> jax.Array:
    """Convolution, depthwise, residual sum, concatenation, pool, dense."""
    h = jax.nn.relu(conv(x, p["stem"]) + p["bias"])
    y = jax.nn.relu6(conv(h, p["deep"], feature_group_count=8))
    h = jax.nn.relu(h + conv(y, p["point"]))
    h = jnp.concatenate([h, lax.reduce_window(h, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")], -1)
    return conv(h, p["down"], 2).mean((1, 2)) @ p["head"] + p["end"]


PARAMS = {
    name: normal(*shape, scale=1 / max(np.prod(shape[:-1], dtype=int), 1) ** 0.5)
    for name, shape in {
        "stem": (3, 3, 3, 8), "bias": (8,), "deep": (3, 3, 1, 8), "point": (1, 1, 8, 8), "down": (3, 3, 16, 6),
        "head": (6, 4), "end": (4,),
    }.items()
}  # fmt: skip
IMAGES = normal(4, 8, 8, 3)


INT8 = Scheme()


def integers(scheme: Any = INT8, fn: Function = small, params: Any = PARAMS, x: Any = IMAGES) -> Any:
    """The quantized function."""
    return quantize(fn, params, x, scheme=scheme, ranges=calibrate(fn, params, [x], scheme))


def test_static_integers_are_integers_in_the_runtime(tmp_path: Path) -> None:
    fn, params = integers()
    exact, rounded = tmp_path / "exact.onnx", tmp_path / "rounded.onnx"
    report = export.onnx(exact, fn, params, IMAGES, shapes="batch, ...")
    assert (report.integer_sites, report.float_sites, report.handed_on) == (5, 0, 0)
    assert off(exact, fn, params, IMAGES) <= 1e-2  # a half may round to the other side
    report = export.onnx(rounded, fn, params, IMAGES, shapes="batch, ...", batches=[IMAGES])
    assert report.float_sites == 0 < report.handed_on
    ops = optimized(rounded)
    assert not ops.keys() & {"Conv", "FusedConv", "Gemm", "MatMul"}
    assert (ops["QLinearConv"], ops["QGemm"], ops["QLinearAdd"], ops["QLinearConcat"]) == (4, 1, 1, 1)
    assert off(rounded, fn, params, IMAGES) <= 5e-2


SCHEMES = {
    "int8 weights": Scheme(inputs=None),
    "int4 weights": Scheme(bits=4, inputs=None),
    "affine weights": Scheme(bits=4, symmetric=False, inputs=None),
    "blocks": Scheme(bits=4, block=2, inputs=None),
    "one scale": Scheme(axis=None, inputs=None),
    "two axes": Scheme(axis=(2, 3), inputs=None),
    "floats of 4 bits": Scheme(bits="fp4_e2m1", inputs=None),
    "normal floats": Scheme(bits="nf4", inputs=None),
    "dynamic": Scheme(inputs="dynamic"),
    "affine sites": Scheme(symmetric=False),
    "inputs of 4 bits": Scheme(bits=4, input_bits=4),
    "signed inputs": Scheme(input_symmetric=True),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes(name: str, tmp_path: Path) -> None:
    rules = [("point|deep|stem|down", SCHEMES[name])] if name == "two axes" else SCHEMES[name]
    fn, params = integers(rules)
    report = export.onnx(tmp_path / "model.onnx", fn, params, IMAGES)
    exact, coarse = SCHEMES[name].inputs is None, SCHEMES[name].input_bits == 4  # a half may round to the other side
    assert off(tmp_path / "model.onnx", fn, params, IMAGES) <= (1e-5 if exact else 0.2 if coarse else 0.05)
    assert (report.integer_sites > 0) == (SCHEMES[name].inputs == "static")


def test_weights_of_four_bits_are_half_a_byte(tmp_path: Path) -> None:
    wide = {"w": normal(256, 256)}
    fn, params = quantize(lambda p, x: x @ p["w"], wide, normal(2, 256), scheme=Scheme(bits=4, inputs=None))
    report = export.onnx(tmp_path / "model.onnx", fn, params, normal(2, 256))
    assert 256 * 128 < report.bytes < 256 * 128 + 3000
    assert off(tmp_path / "model.onnx", fn, params, normal(2, 256)) <= 1e-5


def test_writing_takes_less_than_four_times_the_weights(tmp_path: Path) -> None:
    params = [jnp.full((1024, 1024), i, jnp.float32) for i in range(12)]
    before = peak(reset=True)
    report = export.onnx(
        tmp_path / "model.onnx", lambda p, x: functools.reduce(jnp.matmul, p, x), params, normal(1, 1024)
    )
    assert report.bytes > 48 * 2**20
    assert peak() - before < 4 * report.bytes


def test_stacked_layers_in_integers(tmp_path: Path) -> None:
    stack = {"w": normal(3, 8, 8, scale=0.3)}

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]

    x = normal(4, 8)
    new, params = integers(fn=fn, params=stack, x=x)
    assert export.onnx(tmp_path / "model.onnx", new, params, x).integer_sites == 3
    assert off(tmp_path / "model.onnx", new, params, x) <= 1e-2


def test_integers_of_functions_with_derivatives_of_their_own(tmp_path: Path) -> None:
    x = normal(4, 8)
    new, params = integers(fn=lambda p, x: own_jvp(p["w"], x), params={"w": normal(8, 4)}, x=x)
    export.onnx(tmp_path / "model.onnx", new, params, x)
    assert off(tmp_path / "model.onnx", new, params, x) <= 1e-2


@pytest.mark.exhaustive
def test_rewrites_before_it(tmp_path: Path) -> None:
    fn, params = prepared(CASES["resnet"])
    x, file = numbers(CASES["resnet"]), tmp_path / "model.onnx"
    for new, given in (
        fold_batch_norm(fn, params, x),
        shrink(fn, params, x, keep={"params/Conv_0/kernel": np.arange(6) < 4}),
        factorize(fn, params, x, rank=[(".*Conv_3/kernel", 3)]),
    ):
        assert export.onnx(file, new, given, x).float_sites > 0
        assert off(file, new, given, x) <= 1e-5


def test_bfloat16_is_computed_in_float32(tmp_path: Path) -> None:
    params, x = normal(4, 3).astype(jnp.bfloat16), normal(2, 4)
    fn = lambda w, x: (x.astype(jnp.bfloat16) @ w).astype(jnp.float32)  # noqa: E731
    assert "bfloat16 is float32" in export.onnx(tmp_path / "model.onnx", fn, params, x).notes
    assert off(tmp_path / "model.onnx", fn, params, x) <= 2e-2


def test_several_inputs_and_results_have_their_names(tmp_path: Path) -> None:
    fn = lambda w, x: {"sum": x["a"] + x["b"] * w, "same": x["a"]}  # noqa: E731
    x = {"a": normal(2, 3), "b": normal(2, 3)}
    export.onnx(tmp_path / "model.onnx", fn, normal(3), x, metadata={"labels": "cat dog"})
    model = onnx.load(tmp_path / "model.onnx")
    assert [port.name for port in model.graph.input] == ["input_0_a", "input_0_b"]
    assert [port.name for port in model.graph.output] == ["same", "sum"]
    assert {each.key: each.value for each in model.metadata_props} == {"labels": "cat dog"}
    same, total = ran(tmp_path / "model.onnx", x["a"], x["b"])
    assert np.array_equal(same, x["a"])
    assert total.shape == (2, 3)


def test_what_has_no_rule_is_named_with_its_place(tmp_path: Path) -> None:
    file, w = tmp_path / "model.onnx", normal(3)
    with pytest.raises(ArgumentError, match=r"operation lgamma has no rule .*test_onnx\.py"):
        export.onnx(file, lambda w, x: lax.lgamma(x * w), w, normal(2, 3))
    with pytest.raises(ArgumentError, match="while has no rule"):
        export.onnx(file, lambda w, x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x + w, x), w, normal(2, 3))
    with pytest.raises(ArgumentError, match="has effects"):
        export.onnx(file, lambda w, x: [jax.debug.print("{}", x), x * w][1], w, normal(2, 3))
    with pytest.raises(ArgumentError, match="of integers"):
        export.onnx(file, lambda w, x: x @ w, jnp.ones((3, 2), jnp.int32), jnp.ones((2, 3), jnp.int32))
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fn, w, x = (lambda w, x: x * w), normal(3), normal(2, 3)
    with pytest.raises(ArgumentError, match="no folder"):
        export.onnx(tmp_path / "none" / "model.onnx", fn, w, x)
    with pytest.raises(ArgumentError, match="works on values"):
        export.onnx(tmp_path / "model.onnx", fn, jax.ShapeDtypeStruct((3,), jnp.float32), x)
    with pytest.raises(ArgumentError, match="metadata must be texts"):
        export.onnx(tmp_path / "model.onnx", fn, w, x, metadata={"classes": 10})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="gave no batch"):
        export.onnx(tmp_path / "model.onnx", fn, w, x, batches=[])
    monkeypatch.setattr("jaxcomp.export.to_onnx.model.MOST_BYTES", 8)
    with pytest.raises(ArgumentError, match="holds 8"):
        export.onnx(tmp_path / "model.onnx", fn, w, x)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("jaxcomp.export.to_onnx.save.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"jaxcomp\[onnx\]"):
        export.onnx(tmp_path / "model.onnx", fn, w, x)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "seeds",
    [(24,), *(pytest.param(range(i, i + 10), marks=MARKS[i > 0]) for i in range(0, 200, 10))],
    ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}",
)
def test_random_networks(seeds: Sequence[int], tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    for seed in seeds:
        (fn, params), bits = random_network(seed), 4 if seed % 2 else 8
        x = jnp.asarray(np.random.default_rng(1000 + seed).standard_normal((2, 7, 6, 3)), jnp.float32)
        export.onnx(file, fn, params, x)
        assert off(file, fn, params, x) <= 1e-5, seed
        new, codes = quantize(fn, params, x, scheme=Scheme(bits, inputs=None))
        export.onnx(file, new, codes, x)
        assert off(file, new, codes, x) <= 1e-5, seed
        new, codes = integers(Scheme(bits), fn, params, x)
        assert export.onnx(file, new, codes, x, batches=[x]).float_sites == 0, seed
        assert off(file, new, codes, x) <= 0.1, seed


def test_what_was_traced_before_is_traced_anew_and_runs_as_ever(tmp_path: Path) -> None:
    fn, params = integers()
    inner = jax.jit(fn)
    around = lambda p, x: jax.nn.softmax(inner(p, x))  # noqa: E731
    before, dense = np.asarray(around(params, IMAGES)), rewrite.densify(params)["stem"]
    assert export.onnx(tmp_path / "model.onnx", jax.jit(around), params, IMAGES).integer_sites == 5
    assert off(tmp_path / "model.onnx", around, params, IMAGES) <= 1e-2
    assert np.array_equal(before, around(params, IMAGES))
    assert np.array_equal(dense, rewrite.densify(params)["stem"])
