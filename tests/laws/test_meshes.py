"""The laws of meshes: whatever axes one has, and whether ``jax.set_mesh`` was called, the numbers are one device's."""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxcomp as jc

from .compressors import COMPRESSORS
from .containers import CONTAINERS
from .executions import close, replicate, shard, shardings_kept
from .rewrites import REWRITES, in_turn, networks, numbers, plain, ran

DEFAULT = ("sites", "quantize-w4", "input_norms")
"""The rewrites that are not left to the exhaustive tests."""
QUICK = ("quant-ternary-blocks", "lowrank-rank")
"""The recipes that are not."""


class Place(NamedTuple):
    axes: AxisType
    is_set: bool


PLACES = [Place(axes, is_set) for axes in (AxisType.Explicit, AxisType.Auto) for is_set in (False, True)]


@contextlib.contextmanager
def on(place: Place) -> Any:
    made = Mesh(np.array(jax.devices()[:4]), ("x",), axis_types=(place.axes,))
    with jax.set_mesh(made) if place.is_set else contextlib.nullcontext():
        yield made


def named(place: Place) -> str:
    return f"{place.axes.name}-{'set' if place.is_set else 'unset'}"


def places(names: Any, quick: Any, networks: Any) -> list[Any]:
    """Names on networks in places, in turn; under ``exhaustive`` but for what is quick, on the first network."""
    at_once = [(name, networks[0], PLACES[i % 2]) for i, name in enumerate(quick)]  # Explicit axes, set and not
    others = [(name, network, PLACES[turn % len(PLACES)]) for name, network, turn in in_turn(names, networks)]
    return [
        pytest.param(
            *each, marks=[] if each in at_once else pytest.mark.exhaustive, id="-".join([*each[:2], named(each[2])])
        )
        for each in dict.fromkeys([*at_once, *others])
    ]


def same_numbers(got: Any, wanted: Any) -> None:
    for a, b in zip(*(jax.tree.leaves(tree) for tree in (got, wanted)), strict=True):
        if getattr(a, "dtype", None) == jax.dtypes.float0:
            continue
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max(initial=1))


@pytest.mark.parametrize(("name", "container", "place"), places(list(COMPRESSORS), QUICK, ["dict"]))
def test_recipes(name: str, container: str, place: Place) -> None:
    recipe, params = COMPRESSORS[name](), CONTAINERS[container](jnp.float32)
    init, update, apply = (jax.jit(function) for function in recipe[:3])
    first = init(params)
    state = update(params, first, jnp.int32(2))
    with on(place) as mesh:
        spread = jax.tree.map(lambda leaf: shard(leaf, mesh), params)
        begun = init(spread)
        moved = update(spread, begun, jnp.int32(2))
        view = apply(spread, moved)
        assert close(begun, first)
        assert close(moved, state)
        assert close(view, apply(params, state))
        assert shardings_kept(view, spread)
        assert close(recipe.apply(spread, recipe.update(spread, recipe.init(spread), 2)), view)  # eagerly


@pytest.mark.parametrize("place", PLACES[:2], ids=named)
def test_learned_scales_begin_with_the_same_bits(place: Place) -> None:
    begin = jc.quant.lsq(4, axis=-1, start=jc.quant.deviations()).init
    with on(place) as mesh:
        start = jax.jit(begin, compiler_options={"xla_backend_optimization_level": 3})
        for i in range(8):  # a product that a compiler fuses with a sum differs in one of ten
            w = numbers(64, 32) * 3.3**i
            for other in (start(w), start(shard(w, mesh))):
                np.testing.assert_array_equal(begin(w).scale.value, other.scale.value)


@pytest.mark.parametrize(("name", "network", "place"), places(list(REWRITES), DEFAULT, list(networks())))
def test_rewrites_of_data_parallel_functions(name: str, network: str, place: Place) -> None:
    function, params, x = networks()[network]
    wanted = plain(name, network)
    with on(place) as mesh:
        whole = jax.tree.map(lambda leaf: replicate(leaf, mesh), params)
        same_numbers(REWRITES[name](function, whole, shard(x, mesh)), wanted)


def gathered(params: Any, x: Any) -> Any:
    """Parameters that devices hold in parts, and the function gathers."""
    up, down = (jax.reshard(params[name], PartitionSpec()) for name in ("up", "down"))
    return jax.nn.relu(x @ up) @ down


def in_columns_and_rows(params: Any, x: Any) -> Any:
    """A matmul whose results are split, and one whose sums are."""
    return jnp.dot(jax.nn.relu(x @ params["up"]), params["down"], out_sharding=PartitionSpec())


def whole(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["up"]) @ params["down"]


LAYOUTS = {
    "gathered": (gathered, {"up": PartitionSpec("x"), "down": PartitionSpec("x")}, PartitionSpec("x")),
    "in-columns-and-rows": (
        in_columns_and_rows, {"up": PartitionSpec(None, "x"), "down": PartitionSpec("x")}, PartitionSpec()
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layout", "name"), [
    *((layout, "quantize-w4") for layout in LAYOUTS),
    *(pytest.param(list(LAYOUTS)[i % 2], name, marks=pytest.mark.exhaustive)
      for i, name in enumerate(REWRITES) if name != "quantize-w4"),
])  # fmt: skip
def test_rewrites_of_functions_whose_parameters_are_in_parts(layout: str, name: str) -> None:
    function, specs, spec = LAYOUTS[layout]
    params = {"up": networks()["dense"].params["up"], "down": networks()["scanned"].params["head"]}
    x = networks()["dense"].inputs
    wanted = REWRITES[name](whole, params, x)
    with on(Place(AxisType.Explicit, True)) as mesh:
        placed = {path: jax.device_put(leaf, NamedSharding(mesh, specs[path])) for path, leaf in params.items()}
        same_numbers(REWRITES[name](function, placed, jax.device_put(x, NamedSharding(mesh, spec))), wanted)


@pytest.mark.parametrize("place", PLACES[:2], ids=named)
def test_what_was_made_on_one_device_runs_on_a_mesh(place: Place) -> None:
    function, params, x = networks()["dense"]
    made = jc.rewrite.quantize(function, params, x, scheme=jc.rewrite.Scheme(8, inputs=None))
    wanted = ran(made, x)
    with on(place) as mesh:
        spread = jax.tree.map(lambda leaf: replicate(leaf, mesh), made[1])
        same_numbers(ran((made[0], spread), shard(x, mesh)), wanted)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fold_weights", {}),
        ("shrink", {"keep": jc.rewrite.choose(0.5)}),
        ("quantize", {"scheme": jc.rewrite.Scheme(8, inputs="dynamic")}),
    ],
)
def test_what_was_made_under_a_mesh_runs_without_it(name: str, options: Any) -> None:
    function, params, x = networks()["dense"]
    with on(Place(AxisType.Explicit, True)):  # on which the arrays are not
        made = getattr(jc.rewrite, name)(function, params, x, **options)
        wanted = ran(made, x)
    same_numbers(ran(made, x), wanted)
