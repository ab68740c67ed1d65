"""The ways to run a compressor: each yields, step by step, the state and the view that the eager one yields."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcomp import Compressor
from jaxcomp.core.leaves import is_real

from .compressors import STEPS

Pair = tuple[Any, Any]


def trajectory(params: Any) -> list[Any]:
    """Parameters as they move in training, by exact arithmetic: neither rank nor range stays."""
    moved = [params]
    for _ in range(STEPS):
        moved.append(jax.tree.map(_move, moved[-1]))
    return moved


def _move(leaf: Any) -> Any:
    if not is_real(leaf):
        return leaf
    values = np.asarray(leaf, np.float32)
    return jnp.asarray(np.where(values > 0, values / 2, values * -2).astype(leaf.dtype))


def step(compressor: Compressor) -> Callable[..., Pair]:
    def run(params: Any, state: Any, i: Any) -> Pair:
        state = compressor.update(params, state, i)
        return state, compressor.apply(params, state)

    return run


def reference(compressor: Compressor, moved: list[Any]) -> list[Pair]:
    """Eagerly, with steps counted in Python, from step 0 on."""
    state = compressor.init(moved[0])
    pairs = [(state, compressor.apply(moved[0], state))]
    for i, params in enumerate(moved[1:], 1):
        pairs.append(step(compressor)(params, pairs[-1][0], i))
    return pairs


def eager(compressor: Compressor, moved: list[Any], expected: list[Pair]) -> Iterator[Pair]:
    return _one_by_one(step(compressor), moved, expected[0][0])


def jitted(compressor: Compressor, moved: list[Any], expected: list[Pair]) -> Iterator[Pair]:
    return _one_by_one(jax.jit(step(compressor), donate_argnums=1), moved, _copy(expected[0][0]))


def _one_by_one(run: Callable[..., Pair], moved: list[Any], state: Any) -> Iterator[Pair]:
    for i, params in enumerate(moved[1:], 1):
        state, view = run(params, state, jnp.int32(i))
        yield on_host((state, view))


def scanned(compressor: Compressor, moved: list[Any], expected: list[Pair]) -> Iterator[Pair]:
    def body(state: Any, inputs: Any) -> tuple[Any, Pair]:
        state, view = step(compressor)(inputs[0], state, inputs[1])
        return state, (state, view)

    run = jax.jit(lambda state, inputs: jax.lax.scan(body, state, inputs)[1])
    pairs = on_host(run(expected[0][0], (jax.tree.map(_stack, *moved[1:]), jnp.arange(1, STEPS + 1))))
    for i in range(STEPS):
        yield jax.tree.map(lambda leaf, i=i: leaf[i], pairs)


def pmapped(compressor: Compressor, moved: list[Any], expected: list[Pair]) -> Iterator[Pair]:
    run = jax.pmap(step(compressor), in_axes=(0, 0, None))
    state = _replicated(expected[0][0])
    for i, params in enumerate(moved[1:], 1):
        state, view = run(_replicated(params), state, jnp.int32(i))
        replicas = on_host((state, view))
        for leaf in jax.tree.leaves(replicas):
            assert len({replica.tobytes() for replica in leaf}) == 1
        yield jax.tree.map(lambda leaf: leaf[0], replicas)


def _copy(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), tree)


def _replicated(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: _stack(*[leaf] * jax.device_count()), tree)


def _stack(*leaves: Any) -> Any:
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    return jnp.asarray(np.stack(leaves))


def sharded(kind: AxisType) -> Callable[..., Iterator[Pair]]:
    """Every step from the eager state before it, so that one compilation serves; views must keep the shardings."""

    def run_sharded(compressor: Compressor, moved: list[Any], expected: list[Pair]) -> Iterator[Pair]:
        mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
        run = jax.jit(step(compressor))
        with jax.set_mesh(mesh):
            for i, params in enumerate(moved[1:], 1):
                params = jax.tree.map(lambda leaf: shard(leaf, mesh), params)
                masks = jax.tree.map(
                    lambda leaf: shard(leaf, mesh) if leaf.dtype == bool else replicate(leaf, mesh), expected[i - 1][0]
                )
                state, view = run(params, masks, jnp.int32(i))
                assert shardings_kept(view, params)
                yield on_host((state, view))

    return run_sharded


def shard(leaf: Any, mesh: Mesh) -> Any:
    """Split along the first axis that the devices divide; replicated without one, or without elements."""
    split = [axis for axis, size in enumerate(leaf.shape) if leaf.size and size % mesh.size == 0][:1]
    spec = PartitionSpec(*["x" if axis in split else None for axis in range(leaf.ndim)])
    return jax.device_put(leaf, NamedSharding(mesh, spec))


def replicate(leaf: Any, mesh: Mesh) -> Any:
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))


def shardings_kept(view: Any, params: Any) -> bool:
    same = jax.tree.map(lambda new, old: new.sharding.is_equivalent_to(old.sharding, old.ndim), view, params)
    return all(jax.tree.leaves(same))


def on_host(tree: Any) -> Any:
    """The tree with NumPy arrays, random keys as their data."""

    def fetch(leaf: Any) -> np.ndarray:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(fetch, tree)


def described(tree: Any) -> Any:
    """Structure, shapes and dtypes of a tree."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def bit_equal(a: Any, b: Any) -> bool:
    """Whether two trees agree in structure, shapes, dtypes and every bit, the signs of zeros too."""
    a, b = on_host(a), on_host(b)
    same = described(a) == described(b)
    return same and all(x.tobytes() == y.tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def close(a: Any, b: Any) -> bool:
    """Whether two trees agree in structure, shapes, dtypes, and in every value up to rounding."""
    a, b = on_host(a), on_host(b)
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return described(a) == described(b) and all(_near(x, y) for x, y in pairs)


def _near(x: np.ndarray, y: np.ndarray) -> bool:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.tobytes() == y.tobytes()
    # Sums in float32 round as they are ordered, singular vectors by as much over the gap between their values; the
    # result is rounded once more. What is mixed is off by a part of the largest entry, however small its own.
    tolerance = 2 * float(jnp.finfo(x.dtype).eps) + 64 * float(jnp.finfo(jnp.float32).eps)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return bool(np.all(np.abs(x - y) <= tolerance * np.abs(y).max(initial=0)))


EXECUTIONS: dict[str, Callable[[Compressor, list[Any], list[Pair]], Iterator[Pair]]] = {
    "eager": eager,
    "jit": jitted,
    "scan": scanned,
    "pmap": pmapped,
    "auto-mesh": sharded(AxisType.Auto),
    "explicit-mesh": sharded(AxisType.Explicit),
}
