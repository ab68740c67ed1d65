"""Tapped functions return what they returned, and the values that Flax's own means, or an edited twin, give."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from jaxcomp.errors import ArgumentError
from tests.rewrite import models

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


def shaken(tree: Any) -> Any:
    """Variables none of which is trivial."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return treedef.unflatten([x + 0.3 * jax.random.uniform(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


def of(module: nn.Module) -> tuple[Callable[..., Any], Any]:
    return module.apply, shaken(jax.jit(module.init)(jax.random.key(0), IMAGES))


def same(mine: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)


NETWORKS = [
    models.CNN,
    models.BasicResNet,
    models.ConvNeXt,
    models.ViT,
    *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (models.ShuffleNet, models.Swin)),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_module_of_linen_gives_what_flax_captures(network: type[nn.Module]) -> None:
    module = network()
    apply_fn, params = of(module)
    listed = [row.name for row in jc.trace.values(apply_fn, params, IMAGES)]
    out, values = jc.trace.tap(apply_fn, params, IMAGES, at=listed)(params, IMAGES)
    same(out, jax.jit(apply_fn)(params, IMAGES))
    _, captured = jax.jit(lambda p, x: module.apply(p, x, capture_intermediates=True))(params, IMAGES)
    named = named_leaves(captured["intermediates"])
    named = {name.removesuffix("/__call__/0"): value for name, value in named.items() if name.endswith("/__call__/0")}
    assert named.keys() - {"__call__/0"} <= set(listed) | {name for name in named if "Dropout" in name}
    for name in values.keys() & named.keys():
        np.testing.assert_allclose(values[name], named[name], rtol=2e-6, atol=2e-6)
    layers = [name for name, own in params["params"].items() if isinstance(own, dict)]
    assert set(layers) <= values.keys() & named.keys()


class Sown(nnx.Module):
    """A network twice: as users write it, and with its values sown."""

    def __init__(self, sows: bool):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.first = nnx.Linear(4, 6, dtype=jnp.bfloat16, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(6, dtype=jnp.bfloat16, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)
        self.sows = sows

    def keep(self, name: str, x: jax.Array) -> jax.Array:
        if self.sows:
            self.sow(nnx.Intermediate, f"sown {name}", x)
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.keep("conv:normed", self.norm(self.keep("conv", self.conv(x))))
        x = self.keep("first", self.first(self.keep("first:input", nnx.relu(x).mean((1, 2)))))
        return self.head(self.keep("first:activated", nnx.gelu(self.keep("layer_norm", self.layer_norm(x)))))


@pytest.mark.parametrize("trains", [False, True])
def test_nnx_gives_what_it_would_sow(trains: bool) -> None:
    model, sown = Sown(False), Sown(True)
    for each in (model, sown):
        (each.train if trains else each.eval)()
    graphdef, params = nnx.split(model)

    def apply_fn(state: Any, x: jax.Array) -> Any:
        model = nnx.merge(graphdef, state)
        return model(x), nnx.state(model, nnx.BatchStat)

    names = ["conv", "conv:normed", "first:input", "first", "layer_norm", "first:activated"]
    out, values = jc.trace.tap(apply_fn, params, IMAGES, at=names)(params, IMAGES)
    same(out, jax.jit(apply_fn)(params, IMAGES))
    _, kept = nnx.capture(nnx.Intermediate)(lambda model, x: model(x))(sown, IMAGES)
    for name in names:
        (value,) = jax.tree.leaves(kept[f"sown {name}"])
        assert values[name].dtype == value.dtype
        np.testing.assert_allclose(np.float32(values[name]), np.float32(value), rtol=1e-2, atol=1e-2)


KEYS = jax.random.split(jax.random.key(5), 4)
PARAMS = {
    "up": {"w": jax.random.normal(KEYS[0], (3, 4)), "b": jnp.linspace(-1, 1, 4)},
    "layers": {"w": jax.random.normal(KEYS[1], (3, 4, 4)), "b": 0.1 * jax.random.normal(KEYS[2], (3, 4))},
    "down": {"w": jax.random.normal(KEYS[3], (4, 2))},
}
X = jnp.linspace(-1, 1, 24).reshape(8, 3)


@jax.custom_vjp
def halved(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["w"])


halved.defvjp(lambda p, x: (halved(p, x), (p, x)), lambda kept, g: ({"w": kept[1].T @ g}, 0.5 * g @ kept[0]["w"].T))


def network(p: Any, x: jax.Array) -> jax.Array:
    return by_hand(p, x)[0]


def by_hand(p: Any, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A function whose parts are inside of jit, remat, scan and a derivative of its own, with its values."""
    first = jax.jit(lambda p, x: x @ p["w"] + p["b"])(p["up"], x)

    @jax.checkpoint
    def layer(x: jax.Array, p: Any) -> Any:
        y = jnp.dot(x, p["w"])
        return x + jax.nn.silu(y + p["b"]), (y, jax.nn.silu(y + p["b"]))

    def step(x: jax.Array, p: Any) -> Any:
        return layer(x, p)

    x, (products, curves) = lax.scan(step, jax.nn.relu(first), p["layers"])
    out = halved(p["down"], x)
    own = jnp.dot(x, p["down"]["w"])
    values = {"up": first, "up:activated": jax.nn.relu(first), "layers/w": products}
    return out, values | {"layers:activated": curves, "down:input": x, "down": own}


AT = ["up", "up:activated", "layers/w", "layers:activated", "down:input", "down"]
"""All but the last two come out of bodies; the last is in a derivative's function."""


def test_values_are_those_returned_by_hand() -> None:
    tapped = jc.trace.tap(network, PARAMS, X, at=AT)
    out, values = tapped(PARAMS, X)
    assert list(values) == AT
    same(out, jax.jit(network)(PARAMS, X))
    same(values, jax.jit(by_hand)(PARAMS, X)[1])


def test_gradients_through_values_are_those_by_hand() -> None:
    tapped = jc.trace.tap(network, PARAMS, X, at=AT)

    def loss(function: Callable[..., Any]) -> Callable[..., Any]:
        def of(params: Any, x: jax.Array) -> jax.Array:
            out, values = function(params, x)
            return sum((jnp.sin(i + each).sum() for i, each in enumerate([out, *values.values()])), jnp.float32(0))

        return jax.jit(jax.grad(of, (0, 1)))

    mine, theirs = loss(tapped)(PARAMS, X), loss(by_hand)(PARAMS, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), mine, theirs)


def test_the_backward_pass_keeps_what_it_keeps_by_hand() -> None:
    at = ["up:activated", "layers/w"]
    tapped = jc.trace.tap(network, PARAMS, X, at=at)

    def some(params: Any, x: jax.Array) -> Any:
        out, values = by_hand(params, x)
        return out, {name: values[name] for name in at}

    def compiled(function: Callable[..., Any]) -> Any:
        return (
            jax.jit(jax.grad(lambda p: sum(x.sum() for x in jax.tree.leaves(function(p, X))))).lower(PARAMS).compile()
        )

    mine, theirs = (compiled(each).memory_analysis() for each in (tapped, some))
    assert mine.temp_size_in_bytes <= theirs.temp_size_in_bytes


def test_under_vmap() -> None:
    tapped = jc.trace.tap(network, PARAMS, X[0], at=AT)
    mine, theirs = (jax.jit(jax.vmap(each, (None, 0)))(PARAMS, X) for each in (tapped, by_hand))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), mine, theirs)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded(kind: AxisType) -> None:
    mesh: Mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    x = jax.device_put(X, NamedSharding(mesh, P("x")))
    params = jax.device_put(PARAMS, NamedSharding(mesh, P()))
    tapped = jc.trace.tap(network, params, x, at=AT)
    mine, theirs = (jax.jit(each).lower(params, x).compile() for each in (tapped, by_hand))
    assert "all-" not in mine.as_text()
    (out, values), (expected, known) = mine(params, x), theirs(params, x)
    for one, other in ((out, expected), *((values[name], known[name]) for name in AT)):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_in_strict_modes(dtype: Any) -> None:
    params, x = jax.tree.map(lambda a: a.astype(dtype), (PARAMS["down"], X @ PARAMS["up"]["w"]))
    function = lambda p, x: jax.nn.relu(x @ p["w"])  # noqa: E731
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        _, values = jc.trace.tap(function, params, x, at=["w", "w:activated"])(params, x)
    assert {value.dtype for value in values.values()} == {jnp.dtype(dtype)}
    same(values["w"], jax.jit(jnp.dot)(x, params["w"]))


def test_only_what_is_tapped_is_kept_and_it_is_planned_once_a_shape() -> None:
    calls = []

    def counted(p: Any, x: jax.Array) -> jax.Array:
        calls.append(x.shape)
        return network(p, x)

    tapped = jc.trace.tap(counted, PARAMS, X, at=["up"])
    for n in (8, 8, 4, 4):
        (out, _), made = tapped(PARAMS, X[:n]), jax.jit(tapped).lower(PARAMS, X[:n])
        assert out.shape == (n, 2)
    assert [x.shape for x in jax.tree.leaves(made.out_info)] == [(4, 2), (4, 4)]
    assert calls == [(8, 3), (4, 3)]


def test_keys_of_ones_own_and_arguments_by_name() -> None:
    tapped = jc.trace.tap(network, PARAMS, X, at={"a": "up", "b": "up"})
    out, values = tapped(PARAMS, x=X)
    same(values["a"], values["b"])
    assert out.shape == (8, 2)


def test_names_that_jax_has_scopes_for() -> None:
    def scoped(p: Any, x: jax.Array) -> jax.Array:
        for i in range(2):
            with jax.named_scope("block"), jax.named_scope(f"part{i}"):
                x = jnp.cos(x @ p["w"]) * 2
        return x @ p["w"]

    params = {"w": jax.random.normal(KEYS[0], (3, 3))}
    tapped = jc.trace.tap(scoped, params, X, at=["part0", "block/part1", "block", "w[2]", "w[0]:activated"])
    values = tapped(params, X)[1]
    first = np.cos(np.float64(X) @ np.float64(params["w"])) * 2
    second = np.cos(first @ np.float64(params["w"])) * 2
    np.testing.assert_allclose(values["part0"], first, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values["w[0]:activated"], first / 2, rtol=1e-4, atol=1e-4)
    for name in ("block/part1", "block"):
        np.testing.assert_allclose(values[name], second, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values["w[2]"], second @ np.float64(params["w"]), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def students() -> dict[str, tuple[Any, Any]]:
    """A network, and what rewrites make of it, one after the other."""
    apply_fn, params = of(models.BasicResNet())
    shrunk = jc.rewrite.shrink(apply_fn, params, IMAGES, keep=jc.rewrite.choose(macs=0.6))
    folded = jc.rewrite.fold_batch_norm(*shrunk, IMAGES)
    factors = jc.rewrite.factorize(*folded, IMAGES, rank=3)
    ranges = jc.rewrite.calibrate(*folded, [IMAGES])
    return {
        "shrunk": shrunk,
        "folded": folded,
        "factorized": factors,
        "quantized": jc.rewrite.quantize(*folded, IMAGES, ranges=ranges),
        "qat": jc.rewrite.qat(*folded, [IMAGES]),
    }


BLOCKS = ["Conv_1:normed", "Conv_1:activated", "Conv_2:activated", "Dense_0:input", "Dense_0"]


@pytest.mark.parametrize("name", ["folded", "factorized", "quantized", "qat"])
def test_students_have_the_names_of_what_they_were_made_of(students: Any, name: str) -> None:
    function, params = students[name]
    out, values = jc.trace.tap(jax.jit(function), params, IMAGES, at=BLOCKS)(params, IMAGES)
    same(out, jax.jit(function)(params, IMAGES))
    same(values["Dense_0"], out)
    _, expected = jc.trace.tap(*students["shrunk"], IMAGES, at=BLOCKS)(students["shrunk"][1], IMAGES)
    near = {"folded": 1e-5, "factorized": 3.0, "quantized": 0.15, "qat": 0.15}[name]
    for block in BLOCKS:
        assert values[block].shape == expected[block].shape
        np.testing.assert_allclose(values[block], expected[block], atol=near * float(jnp.abs(expected[block]).max()))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["folded", "quantized", "qat"])
def test_what_a_fold_took_away_is_refused_in_whatever_was_made_of_it(students: Any, name: str) -> None:
    function, params = students[name]
    with pytest.raises(ArgumentError, match=r"'Conv_1' cannot be tapped: fold_batch_norm .* 'Conv_1:normed'"):
        jc.trace.tap(function, params, IMAGES, at=["Conv_1"])


def test_a_view_of_the_parameters_is_tapped_like_them() -> None:
    tapped, recipe = jc.trace.tap(network, PARAMS, X, at=["up"]), jc.prune.magnitude(0.5)
    seen = recipe.apply(PARAMS, recipe.init(PARAMS))
    same(tapped(seen, X)[1]["up"], jax.jit(lambda p, x: x @ p["w"] + p["b"])(seen["up"], X))


def inside(p: Any, x: jax.Array) -> jax.Array:
    x = lax.cond(x.sum() > 0, lambda x: x @ p["cond"], lambda x: x, x)
    x = lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ p["while"], x)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    return jax.shard_map(lambda p, x: x @ p, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))(p["mapped"], x)


@pytest.mark.parametrize("name", ["cond", "while", "mapped"])
def test_what_cannot_be_led_out_says_why(name: str) -> None:
    params = {name: jnp.eye(3) for name in ("cond", "while", "mapped")}
    with pytest.raises(ArgumentError, match=rf"'{name}' cannot be tapped: it is inside .*(branch|loop|shard_map)"):
        jc.trace.tap(inside, params, X, at=[name])
    assert name in str(jc.trace.values(inside, params, X)) or name in params


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (["ip"], r"'ip' names no value of the function; the nearest are 'up'"),
        (["w"], "'w' names more than one: down/w, layers/w, up/w"),
        (["up[1]"], r"'up\[1\]' names none of the 1 values .* up\[0\] \[8, 4\]"),
        (["up:normal"], r"asks for 'normal': after the colon goes one of input, normed, activated"),
        (["up:normed"], "no norm follows"),
        (["scale:activated"], "no activation follows: its result is read by dot_general"),
        ("up", "at must be a list of names"),
        ([3], "at must be a list of names"),
    ],
)
def test_what_names_nothing(at: Any, said: str) -> None:
    scaled = lambda p, x: network(p, x * p["scale"])  # noqa: E731
    with pytest.raises(ArgumentError, match=said):
        jc.trace.tap(scaled, {**PARAMS, "scale": jnp.ones(3)}, X, at=at)


def test_what_is_called_twice_is_told_apart() -> None:
    shared = lambda p, x: jnp.sin(x @ p["a"]["w"]) @ p["a"]["w"]  # noqa: E731
    params = {"a": {"w": jax.random.normal(KEYS[0], (3, 3))}}
    with pytest.raises(ArgumentError, match=r"more than one of the 2 values .*: give one of a\[0\] \[8, 3\], a\[1\]"):
        jc.trace.tap(shared, params, X, at=["a"])
    out, values = jc.trace.tap(shared, params, X, at=["a[1]", "a[0]:activated"])(params, X)
    same(out, values["a[1]"])
    assert [row.name for row in jc.trace.values(shared, params, X)] == ["a[0]", "a[1]"]


def test_the_list_fits_a_terminal_and_every_name_in_it_can_be_tapped() -> None:
    class Deep(nn.Module):
        levels: int = 9

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            inner = Deep(self.levels - 1, name=f"a_long_name_of_level_{self.levels}") if self.levels else nn.Dense(4)
            return inner(x)

    apply_fn, params = of(Deep())
    found = jc.trace.values(apply_fn, params, IMAGES)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines[2 : 2 + len(found)]]
    assert len(jc.trace.tap(apply_fn, params, IMAGES, at=names)(params, IMAGES)[1]) == len(found)


def test_where_no_layer_has_a_name_it_is_said() -> None:
    found = jc.trace.values(lambda p, x: x @ p["w"], {"w": jnp.ones((4, 2))}, jnp.ones((1, 4)))
    assert len(found) == 0
    assert str(found) == "no layer has a name of its own; parameters have: see jaxcomp.trace.sites"
