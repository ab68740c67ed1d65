"""What is fake-quantized is what runs in integers: the same sums at every site, the same results."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.rewrite import Scheme, calibrate, densify, fake_quantize, fold_batch_norm, quantize
from jaxcomp.rewrite.quant import integers
from tests.rewrite import models_nnx
from tests.rewrite.channels.test_models import CASES, prepared
from tests.rewrite.channels.test_models import Case as Model
from tests.rewrite.lowrank.test_factors import conv, normal
from tests.rewrite.parity import TOLERANCE, distance, quick, randomize

IMAGE = normal(2, 9, 8, 6)


def maxima(p: Any, x: jax.Array, padding: Any = "SAME") -> jax.Array:
    return conv((1, 1), "SAME")(p, lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), padding))


X = normal(4, 6, seed=0)

SCHEMES = {
    "w8": Scheme(8, inputs=None),
    "w4": Scheme(4, inputs=None),
    "w8a8 static": Scheme(8),
    "w4a8 static": Scheme(4),
    "w4a4 dynamic": Scheme(4, inputs="dynamic", input_bits=4),
    "w8a8 dynamic, symmetric": Scheme(8, inputs="dynamic", input_symmetric=True),
    "affine, one scale": Scheme(8, axis=None, symmetric=False),
    "affine dynamic": Scheme(3, symmetric=False, inputs="dynamic", input_bits=5),
    "powers of two": Scheme("pot4", input_bits="apot4"),
    "fp4": Scheme("fp4_e2m1", fit=jc.quant.mse(20), inputs="dynamic", input_bits="fp4_e2m1"),
    "binary": Scheme(1, inputs="dynamic", input_bits=1),
    "nf4 in blocks": Scheme("nf4", inputs=None, block=16),
    "fp8": Scheme("fp8_e4m3", inputs=None),
}


def both(function: Callable[..., Any], params: Any, x: Any, scheme: Any, data: Any = None) -> tuple[Any, Any, Any]:
    """The fake-quantized function, the integer one and its parameters."""
    ranges = calibrate(function, params, [x] if data is None else data, scheme)
    new, packed = quantize(function, params, x, scheme=scheme, ranges=ranges)
    return fake_quantize(function, params, x, scheme=scheme, ranges=ranges)[0], new, packed


# One site.


class Case(NamedTuple):
    """A function of one weight, the weight's shape, and its input."""

    function: Callable[..., Any]
    shape: tuple[int, ...]
    x: jax.Array


SITES = {
    "matmul": Case(lambda p, x: x @ p["w"], (6, 5), X),
    "transposed": Case(lambda p, x: x @ p["w"].T, (5, 6), X),
    "on the left": Case(lambda p, x: jnp.einsum("oi,bi->ob", p["w"], x), (5, 6), X),
    "batched": Case(lambda p, x: jnp.einsum("bhi,hio->bho", x, p["w"]), (3, 2, 5), X.reshape(4, 3, 2)),
    "several summed": Case(lambda p, x: jnp.einsum("bhi,hio->bo", x, p["w"]), (3, 2, 5), X.reshape(4, 3, 2)),
    "reshaped": Case(lambda p, x: x @ p["w"].reshape(6, 10), (6, 2, 5), X),
    "strided": Case(conv((2, 1), "SAME"), (3, 2, 6, 5), IMAGE),
    "uneven padding": Case(conv((1, 2), ((2, 0), (-1, 3))), (3, 2, 6, 5), IMAGE),
    "dilated": Case(conv((1, 1), "SAME", rhs_dilation=(2, 1)), (3, 3, 6, 5), IMAGE),
    "transposed convolution": Case(lambda p, x: lax.conv_transpose(x, p["w"], (2, 2), "SAME"), (3, 3, 6, 5), IMAGE),
    "grouped": Case(conv((1, 1), "SAME", feature_group_count=2), (3, 3, 3, 4), IMAGE),
    "depthwise": Case(conv((1, 1), "SAME", feature_group_count=6), (3, 3, 1, 12), IMAGE),
    "other layouts": Case(
        conv((1, 1), "SAME", dimension_numbers=("CHNW", "OHIW", "WNCH")), (5, 3, 6, 2), normal(6, 7, 2, 5)
    ),
    "one axis": Case(
        lambda p, x: lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")),
        (3, 6, 5), normal(2, 7, 6),
    ),
}  # fmt: skip


def rounded(x: Any, axes: tuple[int, ...], bits: int, symmetric: bool) -> np.ndarray:
    """The nearest numbers on the grid that spans an array along all axes but ``axes``, in float64."""
    x = np.asarray(x, np.float64)
    others = tuple(i for i in range(x.ndim) if i not in axes)
    low, high = np.minimum(x.min(others, keepdims=True), 0), np.maximum(x.max(others, keepdims=True), 0)
    if symmetric:
        scale, zero = np.maximum(high, -low) / (2 ** (bits - 1) - 1), 0
        return np.round(x / scale) * scale
    scale = (high - low) / (2**bits - 1)
    zero = np.round(-low / scale)
    return (np.clip(np.round(x / scale) + zero, 0, 2**bits - 1) - zero) * scale


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_site_computes_what_the_function_does_with_rounded_numbers(name: str, symmetric: bool) -> None:
    function, shape, x = SITES[name]
    params = {"w": normal(*shape, seed=3)}
    scheme = Scheme(8, axis=None, symmetric=symmetric, input_symmetric=symmetric)
    fake, new, packed = both(function, params, x, scheme)
    wanted = {"w": jnp.asarray(rounded(params["w"], (), 8, symmetric), jnp.float32)}
    expected = quick(function)(wanted, jnp.asarray(rounded(x, (), 8, symmetric), jnp.float32))
    out, out_fake = quick(lambda packed, params, x: (new(packed, x), fake(params, x)))(packed, params, x)
    assert packed["w"].parts["codes"].dtype == jnp.int8
    assert distance(expected, out) <= TOLERANCE
    np.testing.assert_array_equal(out, out_fake)
    assert new.report.rows[0].inputs == "static 8"


@pytest.mark.parametrize(("inputs", "symmetric"), [("static", False), ("static", True), ("dynamic", False)])
def test_maxima_are_of_codes_where_ranges_are_known(inputs: Any, symmetric: bool) -> None:
    params, scheme = {"w": normal(3, 2, 6, 5)}, Scheme(8, inputs=inputs, input_symmetric=symmetric)
    fake, new, packed = both(maxima, params, IMAGE, scheme)
    program = str(jax.make_jaxpr(new)(packed, IMAGE))
    assert bool(re.search(r"i8\[[\d,]+\] = reduce_window_max", program)) == (inputs == "static")
    out, out_fake = quick(lambda packed, params, x: (new(packed, x), fake(params, x)))(packed, params, 1.5 * IMAGE)
    np.testing.assert_array_equal(out, out_fake)


def test_maxima_of_padding_alone_are_the_least_code() -> None:
    params, scheme = {"w": normal(3, 2, 6, 5)}, Scheme(8, input_bits=4)
    ranges = calibrate(maxima, params, [IMAGE], scheme)
    empty = functools.partial(maxima, padding=((0, 0), (4, 0), (0, 3), (0, 0)))
    new, packed = quantize(empty, params, IMAGE, scheme=scheme, ranges=ranges)
    fake, _ = fake_quantize(empty, params, IMAGE, scheme=scheme, ranges=ranges)
    out, out_fake = quick(lambda packed, params, x: (new(packed, x), fake(params, x)))(packed, params, IMAGE)
    np.testing.assert_array_equal(out, out_fake)


@pytest.mark.parametrize(
    ("name", "axes"),
    [("transposed", (0,)), ("on the left", (0,)), ("batched", (0, 2)), ("several summed", (2,)), ("reshaped", (1, 2)),
     ("other layouts", (0,)), ("depthwise", (3,))],
)  # fmt: skip
def test_channels_have_scales_of_their_own(name: str, axes: tuple[int, ...]) -> None:
    function, shape, x = SITES[name]
    params = {"w": normal(*shape, seed=3) * jnp.geomspace(1, 100, shape[axes[-1]]).reshape(
        [n if i == axes[-1] else 1 for i, n in enumerate(shape)]
    )}  # fmt: skip
    scheme = Scheme(4, inputs="dynamic")
    fake, new, packed = both(function, params, x, scheme)
    np.testing.assert_allclose(densify(packed)["w"], rounded(params["w"], axes, 4, True), rtol=1e-6)
    out, out_fake = quick(lambda packed, params, x: (new(packed, x), fake(params, x)))(packed, params, x)
    np.testing.assert_array_equal(out, out_fake)
    assert new.report.rows[0].inputs == "dynamic 8"


def test_rows_have_dynamic_scales_of_their_own() -> None:
    params = {"w": normal(6, 5)}
    x = X * jnp.array([[1e-3], [1.0], [0.0], [1e3]])
    new, packed = quantize(lambda p, x: x @ p["w"], params, x, scheme=Scheme(inputs="dynamic", input_symmetric=True))
    expected = rounded(x[jnp.array([0, 1, 3])], (0,), 8, True) @ rounded(params["w"], (1,), 8, True)
    out = np.asarray(new(packed, x))
    np.testing.assert_allclose(out[[0, 1, 3]], expected, rtol=1e-5, atol=1e-8)
    assert not out[2].any()


# Whole models.


class FoldedNet(nn.Module):
    """Strided and depthwise convolutions with batch norm, a shortcut, a head."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def norm(y: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=True)(y)

        x = nn.relu(norm(nn.Conv(8, (3, 3), (2, 2), use_bias=False)(x)))
        y = nn.relu6(norm(nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(x)))
        x = nn.relu(x + norm(nn.Conv(8, (1, 1), use_bias=False)(y)))
        return nn.Dense(3)(x.mean((1, 2)))


def model(name: str) -> tuple[Callable[..., Any], Any, jax.Array]:
    """A function, its parameters and a batch."""
    if name == "folded":
        x = normal(3, 9, 8, 3)
        variables = randomize(FoldedNet().init(jax.random.key(0), x))
        new, small = fold_batch_norm(FoldedNet().apply, variables, x)
        return new, small, x
    if name == "nnx":
        case = Model(models_nnx.BasicResNet, CASES["resnet"].example, ())
        return (*fold_batch_norm(*prepared(case), case.example), case.example)
    return (*prepared(CASES[name]), CASES[name].example)


MODELS = ("mobile", "vit", "nnx")
FEW = {("folded", "w8a8 static"), ("folded", "affine dynamic"), ("mobile", "w4a8 static"), ("vit", "w4a4 dynamic"),
       ("nnx", "w8a8 static"), ("nnx", "w4")}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in FEW else pytest.mark.exhaustive)
        for i, kind in enumerate(SCHEMES)
        for name in dict.fromkeys(["folded", MODELS[i % len(MODELS)], *(name for name, own in FEW if own == kind)])
    ],
)
def test_the_same_integers_at_every_site(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, params, x = model(name)
    fake, new, packed = both(function, params, x, SCHEMES[kind])
    sums: list[Any] = []
    own = integers.total
    monkeypatch.setattr(integers, "total", lambda *args: sums.append(own(*args)) or sums[-1])

    def observed(run: Callable[..., Any]) -> Callable[..., Any]:
        def with_sums(params: Any, x: Any) -> Any:
            sums.clear()
            return run(params, x), list(sums)

        return with_sums

    more = jnp.concatenate([x, x[::-1] * 0.7])  # another batch size
    out_fake, sums_fake = quick(observed(fake))(params, more)
    out, sums_integer = quick(observed(new))(packed, more)
    quantized = [row for row in new.report.rows if row.inputs]
    assert len(sums_integer) == len(sums_fake) == len(quantized)
    assert bool(quantized) == (SCHEMES[kind].inputs is not None)
    for one, other in zip(sums_fake, sums_integer, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).any()
    assert distance(out_fake, out) <= TOLERANCE
    format = SCHEMES[kind].format
    said = str(format.bits) if format.kind == "integer" else format.name
    assert all(row.format == said and not row.skipped for row in new.report.rows)
    assert distance(quick(function)(params, more), out) < {8: 0.25}.get(SCHEMES[kind].bits, 1.5)


# Bodies, and what is no site.

STACK = normal(3, 6, 6, seed=4) / 2


def scanned(p: Any, x: jax.Array) -> jax.Array:
    @jax.checkpoint
    def layer(h: jax.Array, own: Any) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(h @ own["w"]) + h @ own["w"].T
        return h, h.sum()

    return lax.scan(layer, x, {"w": p["w"]})[0] @ p["head"]


def branched(p: Any, x: jax.Array) -> jax.Array:
    h = lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ p["w"]), x)
    return lax.cond(h.sum() > 0, lambda h: h @ p["head"], lambda h: (h - 1) @ p["head"], h)


@pytest.mark.parametrize("function", [scanned, branched])
@pytest.mark.parametrize("kind", ["w8a8 static", "affine dynamic", "w4"])
def test_loops_branches_and_remat(function: Callable[..., Any], kind: str) -> None:
    params = {"head": normal(6, 5), "w": STACK if function is scanned else STACK[0]}
    fake, new, packed = both(function, params, X, SCHEMES[kind])
    out, out_fake = quick(lambda packed, params, x: (new(packed, x), fake(params, x)))(packed, params, X)
    np.testing.assert_array_equal(out, out_fake)
    wanted = quick(function)(densify(packed), X)
    assert distance(wanted, out) < (TOLERANCE if kind == "w4" else 0.2)
    assert {row.path: row.format for row in new.report.rows} == dict.fromkeys(params, str(SCHEMES[kind].bits))
    if kind == "w8a8 static" and function is scanned:
        assert packed["w"].parts["scale"].shape == (3,)  # rows and columns are summed over, in turn
        assert packed["w"].parts["input_scale"].shape == (3,)


def test_values_are_given_to_what_is_no_site() -> None:
    def tied(p: Any, ids: jax.Array) -> jax.Array:
        h = p["table"][ids] @ p["w"]
        return h @ p["table"].T + (p["norm"] / jnp.sqrt((p["norm"] ** 2).sum()))[0, 0]

    params = {"table": normal(7, 6), "w": normal(6, 6), "norm": normal(6, 6)}
    ids = jnp.arange(5)
    scheme = [("w", None), (".*", Scheme(4, inputs="dynamic"))]
    fake, new, packed = both(tied, params, ids, scheme)
    rows = {row.path: (row.format, row.skipped) for row in new.report.rows}
    assert rows == {"table": ("4", "gather reads its value"), "w": ("", "not asked for")}
    assert packed["w"] is params["w"]
    assert packed["norm"] is params["norm"]
    np.testing.assert_array_equal(quick(new)(packed, ids), quick(fake)(params, ids))
    assert "gather reads its value" in str(new.report)


def test_weights_multiplied_by_weights_are_given_by_value() -> None:
    params = {"a": normal(6, 6), "b": normal(6, 6)}
    fake, new, packed = both(lambda p, x: x @ p["a"] @ (p["a"] @ p["b"]), params, X, Scheme(4))
    rows = {row.path: (row.format, row.inputs, row.skipped) for row in new.report.rows}
    assert rows["a"] == ("4", "static 8", "dot_general reads its value")
    assert rows["b"][:2] == ("", "")
    assert "read by dot_general" in rows["b"][2]
    assert packed["b"] is params["b"]
    np.testing.assert_array_equal(quick(new)(packed, X), quick(fake)(params, X))


def test_what_integers_cannot_do_is_named_and_done_in_floating_point() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["rows"] + x @ p["ok"] + (jnp.ones((1, 40_000)) * x[0, 0]) @ p["long"]

    params = {"rows": normal(6, 2), "ok": normal(6, 2), "long": normal(40_000, 2) / 100}
    scheme = [("rows", Scheme(axis=0, inputs="dynamic")), (".*", Scheme(inputs="dynamic"))]
    fake, new, packed = both(function, params, X, scheme)
    assert {row.path: row.skipped for row in new.report.rows} == {
        "rows": "its scales vary along what is summed over",
        "ok": "",
        "long": "a sum of 40,000 products may overflow int32",
    }
    assert {row.path: row.inputs for row in new.report.rows} == {"rows": "", "ok": "dynamic 8", "long": ""}
    assert distance(quick(fake)(params, X), quick(new)(packed, X)) <= TOLERANCE


# The new function is an ordinary one.


def layers(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["a"] + p["bias"]) @ p["b"]


PARAMS = {"a": normal(6, 7), "bias": normal(7), "b": normal(7, 3)}


@pytest.fixture(scope="module")
def trio() -> tuple[Any, Any, Any]:
    """The fake function, the integer one, its parameters: of 4 bits, an odd number of them."""
    return both(layers, PARAMS, X, Scheme(4))


def test_exported_programs_multiply_integers(trio: Any) -> None:
    _, new, packed = trio
    exported = jax.export.export(jax.jit(new))(packed, X)
    assert len(re.findall(r"dot_general.*xi8>, tensor<\S*xi8>\) -> tensor<\S*xi32>", exported.mlir_module())) == 2


def test_codes_of_few_bits_share_bytes(trio: Any) -> None:
    _, new, packed = trio
    assert {path: packed[path].parts["codes"].nbytes for path in "ab"} == {"a": 21, "b": 11}
    assert packed["b"].parts["codes"].dtype == jnp.uint8
    assert packed["b"].shape == (7, 3)
    size = sum(leaf.nbytes for path in "ab" for leaf in jax.tree.leaves(packed[path]))
    assert sum(row.bytes for row in new.report.rows) == size
    _, twos = quantize(layers, PARAMS, X, scheme=Scheme(2, inputs=None))
    assert twos["a"].parts["codes"].nbytes == 11


def test_comes_back_from_a_file(trio: Any, tmp_path: Any) -> None:
    _, new, packed = trio
    jc.pack.save(tmp_path / "m.jcz", packed)
    saved, _ = jc.pack.load(tmp_path / "m.jcz")
    again, like = quantize(layers, jax.eval_shape(lambda: PARAMS), X, scheme=Scheme(4))
    np.testing.assert_array_equal(again(saved, X), new(packed, X))
    whole, _ = jc.pack.load(tmp_path / "m.jcz", like=like)
    assert jax.tree.structure(whole) == jax.tree.structure(packed)
    np.testing.assert_array_equal(densify(whole)["a"], densify(packed)["a"])


def test_gradients_go_straight_through_and_stop_where_codes_are_clipped() -> None:
    params, x = {"w": normal(6, 5)}, X
    scheme = Scheme(3, input_bits=4)
    ranges = calibrate(lambda p, x: x @ p["w"], params, [x * 0.5], scheme)
    fake, _ = fake_quantize(lambda p, x: x @ p["w"], params, x, scheme=scheme, ranges=ranges)
    weights = normal(4, 5, seed=9)
    grads, slopes = quick(jax.grad(lambda p, x: (fake(p, x) * weights).sum(), (0, 1)))(params, x)
    scale, zero = (np.asarray(part, np.float64) for part in (ranges["w"].scale, ranges["w"].zero_point))
    codes = np.round(np.asarray(x, np.float64) / scale) + zero
    inside = (codes >= -8) & (codes <= 7)
    assert 0 < inside.mean() < 1
    seen = (np.clip(codes, -8, 7) - zero) * scale
    np.testing.assert_allclose(grads["w"], seen.T @ weights, rtol=1e-5, atol=1e-5)
    w = rounded(params["w"], (1,), 3, True)
    np.testing.assert_allclose(slopes, (np.asarray(weights, np.float64) @ w.T) * inside, rtol=1e-5, atol=1e-5)


def test_half_precision_has_the_same_integers() -> None:
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS), X.astype(jnp.bfloat16)
    fake, new, packed = both(layers, params, x, Scheme(8, inputs="dynamic"))
    out = quick(new)(packed, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(quick(fake)(params, x), np.float32), np.asarray(out, np.float32))


def test_ranges_in_state_go_before_those_of_the_start() -> None:
    wide = calibrate(layers, PARAMS, [X * 3])
    fake, _ = fake_quantize(layers, PARAMS, X, ranges=calibrate(layers, PARAMS, [X]))
    new, packed = quantize(layers, PARAMS, X, ranges=wide)
    out = quick(lambda ranges, params, x: fake(params, x, ranges=ranges))(wide, PARAMS, X)
    np.testing.assert_array_equal(out, quick(new)(packed, X))
    assert distance(fake(PARAMS, X), out) > 1e-4


def test_weights_stay_on_the_grids_that_they_were_trained_with() -> None:
    view = jc.quant.fake(bits=4, axis=-1)
    weights = {path: PARAMS[path] for path in "ab"}
    state = view.init(weights)
    params = {**PARAMS, **jax.tree.map(lambda w: 1.3 * w, weights)}  # trained on, since: some are clipped
    new, packed = quantize(layers, params, X, scheme=Scheme(4, inputs=None), grids=state)
    shown = {**params, **view.apply({path: params[path] for path in "ab"}, state)}
    for path in "ab":
        np.testing.assert_array_equal(densify(packed)[path], shown[path])
    assert distance(quick(layers)(shown, X), quick(new)(packed, X)) <= TOLERANCE
    fake, _ = fake_quantize(layers, params, X, scheme=Scheme(4, inputs=None))
    assert distance(quick(lambda p, grids: fake(p, X, grids=grids))(params, state), new(packed, X)) <= TOLERANCE


# Errors.


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (Scheme(), "the range of the inputs of 'a' is not known: give ranges= of jaxcomp.rewrite.calibrate"),
        (Scheme(9), "'a': bits must be an integer from 1 to 8, got 9"),
        (Scheme(input_bits=0), "'a': bits must be an integer from 1 to 8, got 0"),
        (Scheme(input_bits="fp8_e4m3"), "'a': fp8_e4m3 has no integer form; those that have one are binary"),
        (Scheme("nf4"), "'a': nf4 has no integer form"),
        (Scheme(4, block=2), "'a': sites cannot sum up integers whose scales vary from block to block"),
        (Scheme(inputs="online"), "inputs must be 'static', 'dynamic' or None, got 'online' for 'a'"),  # type: ignore[arg-type]
        (8, "scheme must be a jaxcomp.rewrite.Scheme, rules of them or a mapping, got 8 for 'a'"),
        (Scheme(axis=2, inputs=None), "'a': axis 2 has a scale for each index, but the tensor has 2 axes"),
    ],
)
def test_what_cannot_be_asked_for(scheme: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        quantize(layers, PARAMS, X, scheme=scheme)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize(
    "call",
    [
        lambda p: quantize(layers, p, X, scheme=Scheme(inputs=None)),
        lambda p: fake_quantize(layers, p, X, scheme=Scheme(inputs=None)),
        lambda p: calibrate(layers, p, [X]),
        lambda p: jc.rewrite.qat(layers, p, [X], Scheme(inputs=None)),
        lambda p: jc.posttrain.round_weights(layers, p, [X], Scheme(inputs=None)),
        lambda p: jc.posttrain.ptq(layers, p, [X]),
        lambda p: jc.search.sensitivity(layers, p, [X], {"8": Scheme(inputs=None)}),
    ],
)
def test_weights_that_are_not_finite_are_named(call: Callable[[Any], Any], bad: float) -> None:
    with pytest.raises(ArgumentError, match="'b' holds NaN or infinity, which no grid can hold: 1 of "):
        call({**PARAMS, "b": PARAMS["b"].at[2, 1].set(bad)})


def test_rules_ranges_and_parameters_that_do_not_fit(trio: Any) -> None:
    with pytest.raises(RuleError, match="matches no parameter"):
        quantize(layers, PARAMS, X, scheme=[("bias", Scheme())])
    known = calibrate(layers, PARAMS, [X])
    with pytest.raises(ArgumentError, match=r"the inputs of 'a' has scale 0.* must be positive and finite"):
        quantize(layers, PARAMS, X, ranges={**known, "a": known["a"]._replace(scale=jnp.zeros(()))})
    with pytest.raises(ArgumentError, match=r"the inputs of 'a' must have shape \(\), got \(2,\)"):
        quantize(layers, PARAMS, X, ranges={**known, "a": known["a"]._replace(scale=jnp.ones(2))})
    with pytest.raises(
        ArgumentError, match=r"the grid of 'b' must be of shape \(7, 3\), or 1 along some axes, got \(2,\)"
    ):
        quantize(layers, PARAMS, X, ranges=known, grids={"b": jc.Grid(jnp.ones(2), jnp.zeros(2, jnp.int32))})
    with pytest.raises(ArgumentError, match="the function that quantize returned needs the parameters"):
        trio[1](PARAMS, X)


def test_the_topmost_code_of_nf4_survives_two_to_a_byte() -> None:
    params = {"w": jnp.array([[1.0, -1.0], [0.5626170039176941, 1.0]])}
    _, packed = quantize(lambda p, x: x @ p["w"], params, X[:, :2], scheme=Scheme("nf4", inputs=None))
    np.testing.assert_allclose(densify(packed)["w"], params["w"], rtol=1e-6)
