"""The laws of views, over every compressor in the table: what ``init``, ``update``, ``apply``, ``describe`` promise."""

import copy
import functools
import itertools
import json
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization

import jaxcomp as jc
from jaxcomp.core.leaves import NOT_REAL, is_real
from jaxcomp.core.paths import named_leaves

from .cases import DTYPES, Case, dtype, runs, views
from .compressors import COMPRESSORS, EXHAUSTIVE, EXHAUSTIVE_RUNS, MIXES, RESHAPES, STEPS
from .containers import CONTAINERS
from .executions import EXECUTIONS, bit_equal, close, described, reference, trajectory


class Subject(NamedTuple):
    """A compressor, the parameters it meets at steps 0, 1, ..., and the state and view of each step."""

    name: str
    compressor: jc.Compressor
    moved: list[Any]
    pairs: list[tuple[Any, Any]]


@functools.cache
def subject(compressor: str, container: str, precision: str) -> Subject:
    made = COMPRESSORS[compressor]()
    moved = trajectory(CONTAINERS[container](jnp.dtype(precision)))
    return Subject(compressor, made, moved, reference(made, moved))


def marked(items: Any) -> list[Any]:
    """Cases, or names of compressors; the costliest to compile are exhaustive."""
    return [pytest.param(item, marks=[pytest.mark.exhaustive] if _is_costly(item) else []) for item in items]


def _is_costly(item: Any) -> bool:
    name, execution = (item, "") if isinstance(item, str) else (item.compressor, item.execution)
    left = [run for start, runs in EXHAUSTIVE_RUNS.items() if name.startswith(start) for run in runs]
    return name.startswith(EXHAUSTIVE) or execution in left


@pytest.fixture(scope="module", params=marked(views()), ids=lambda case: "-".join(case[:3]))
def case(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param[:3])


def zeros(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if is_real(leaf) else leaf, params)


def holds_none(tree: Any) -> bool:
    return any(leaf is None for leaf in jax.tree.leaves(tree, is_leaf=lambda node: node is None))


def test_all_pairs_are_covered():
    cases = views() + runs()
    values = (COMPRESSORS, CONTAINERS, DTYPES, EXECUTIONS)
    for (i, some), (j, others) in itertools.combinations(enumerate(values), 2):
        covered = {(case[i], case[j]) for case in cases}
        assert covered == set(itertools.product(some, others)), Case._fields[i] + " x " + Case._fields[j]


def test_apply_keeps_structure_shapes_dtypes_and_shardings(case):
    for params, (_, view) in zip(case.moved, case.pairs, strict=True):
        assert described(view) == described(params)
        assert all(
            new.sharding == old.sharding
            for new, old in zip(jax.tree.leaves(view), jax.tree.leaves(params), strict=True)
        )


def test_apply_is_idempotent_for_a_fixed_state(case):
    for state, view in case.pairs:
        assert bit_equal(case.compressor.apply(view, state), view) or case.name.startswith(RESHAPES)


def test_apply_is_idempotent_when_the_state_is_another_steps(case):
    (first, _), (_, last) = case.pairs[0], case.pairs[-1]
    view = case.compressor.apply(last, first)
    assert bit_equal(case.compressor.apply(view, first), view) or case.name.startswith(RESHAPES)


def test_update_keeps_the_states_structure_shapes_and_dtypes(case):
    assert all(described(state) == described(case.pairs[0][0]) for state, _ in case.pairs)


@pytest.mark.parametrize("compressor", ["magnitude-global", "partition", "affine-channel-int2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_is_promoted_in_silence(compressor, precision):
    """As in a training loop that has turned JAX's strict promotion on."""
    case = subject(compressor, "dict", precision)
    made, moved, pairs = case.compressor, case.moved, case.pairs
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state = made.update(moved[-1], pairs[0][0], STEPS)
        assert bit_equal((state, made.apply(moved[-1], state)), pairs[-1])


@pytest.mark.parametrize("compressor", ["magnitude-layer", "magnitude-global", "partition", "affine-tensor-int4"])
@pytest.mark.parametrize("precision", ["float8_e4m3fn", "float8_e5m2"])
def test_floats_of_8_bits_have_the_view_of_wider_ones(compressor, precision):
    made, narrow = COMPRESSORS[compressor](), CONTAINERS["dict"](jnp.dtype(precision))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    state, expected = made.init(narrow), made.init(wide)
    assert bit_equal(state, expected)
    view = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(precision)), made.apply(wide, expected))
    assert bit_equal(made.apply(narrow, state), view)


def test_init_is_update_at_step_0(case):
    params, state = case.moved[0], case.pairs[0][0]
    assert bit_equal(case.compressor.update(params, state, 0), state)
    assert bit_equal(case.compressor.update(params, case.pairs[-1][0], jnp.int32(0)), state)


def test_init_works_under_eval_shape(case):
    assert described(jax.eval_shape(case.compressor.init, case.moved[0])) == described(case.pairs[0][0])


def test_state_holds_arrays_alone(case):
    """No Python object, and None only where the parameters have one: whatever is left out is an empty node."""
    state, params = case.pairs[-1][0], case.moved[-1]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert holds_none(params) or not holds_none(state)


def test_leaves_without_real_numbers_come_back_themselves(case):
    """Counters, flags and random keys are the same objects; so is what :func:`jaxcomp.identity` is given."""
    for params, (_, view) in zip(case.moved, case.pairs, strict=True):
        for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(view), strict=True):
            assert new is old or is_real(old)


def test_gradients_are_finite_and_shaped_as_the_parameters(case):
    params, state = case.moved[0], case.pairs[0][0]

    def loss(params: Any) -> jax.Array:
        view = case.compressor.apply(params, state)
        return sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(view) if is_real(leaf))

    gradients = jax.grad(loss, allow_int=True)(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    for gradient, leaf in zip(jax.tree.leaves(gradients), jax.tree.leaves(params), strict=True):
        if is_real(leaf):
            assert (gradient.shape, gradient.dtype) == (leaf.shape, leaf.dtype)
            assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_zero_stays_zero(case):
    """Compressors compose because of it: what one has pruned, the next leaves pruned."""
    for params, (state, view) in zip(case.moved, case.pairs, strict=True):
        for weight, seen in zip(jax.tree.leaves(params), jax.tree.leaves(view), strict=True):
            lost = is_real(weight) and np.any((np.asarray(weight) == 0) & (np.asarray(seen) != 0))
            assert not lost or case.name.startswith(MIXES)
        nothing = zeros(params)
        assert bit_equal(case.compressor.apply(nothing, state), nothing)


def test_all_zero_parameters_are_no_special_case(case):
    nothing = zeros(case.moved[0])
    state = case.compressor.init(nothing)
    assert bit_equal(case.compressor.apply(nothing, state), nothing)
    assert described(state) == described(case.pairs[0][0])


@pytest.mark.parametrize("as_step", [int, jnp.int32])
def test_describe_names_every_leaf_in_plain_values(case, as_step):
    params, state = case.moved[-1], case.pairs[-1][0]
    notes = case.compressor.describe(params, state, as_step(STEPS))
    named = named_leaves(params)
    assert set(notes) in ({*named}, set())  # a compressor without `describe` says nothing
    for path, note in notes.items():
        assert isinstance(note, jc.Note)
        said = {field: value for field, value in note._asdict().items() if field != "grid" and value is not None}
        assert json.loads(json.dumps(said)) == said
        assert note.skipped is not None or is_real(named[path])
        assert note.skipped != NOT_REAL or not is_real(named[path])
        assert note.sparsity is None or 0 <= note.sparsity < 1
        assert note.grid is None or (note.bits is not None and note.grid.scale.ndim == named[path].ndim)


@pytest.mark.parametrize("run", marked(runs()), ids="-".join)
def test_executions_agree_bit_for_bit(run):
    name, compressor, moved, expected = subject(*run[:3])
    agree = close if name.startswith(MIXES) else bit_equal
    got = list(EXECUTIONS[run.execution](compressor, moved, expected))
    assert len(got) == STEPS
    for i, (own, wanted) in enumerate(zip(got, expected[1:], strict=True), 1):
        assert agree(own[0], wanted[0]), f"state of step {i}"
        assert agree(own[1], wanted[1]), f"view of step {i}"


@pytest.mark.parametrize("name", marked(COMPRESSORS))
def test_orbax_round_trips_the_state(name, tmp_path):
    container = list(CONTAINERS)[list(COMPRESSORS).index(name) % len(CONTAINERS)]
    container = "gaps" if container == "no-elements" else container  # Orbax refuses arrays without elements
    _, compressor, moved, pairs = subject(name, container, dtype(name, container))
    kept = {"step": jnp.int32(1), "compressor": pairs[1][0]}
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "state", args=ocp.args.StandardSave(kept))
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, kept)
        restored = checkpointer.restore(tmp_path / "state", args=ocp.args.StandardRestore(target))
    assert bit_equal(restored, kept)
    state = restored["compressor"]
    for i in range(2, STEPS + 1):
        state = compressor.update(moved[i], state, restored["step"] + (i - 1))
        assert bit_equal((state, compressor.apply(moved[i], state)), pairs[i])


def by_paths(state):
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    return jax.tree.unflatten(tree, dict(leaves).values())


STORES = {
    "msgpack": lambda state: serialization.from_bytes(state, serialization.to_bytes(state)),
    "state-dict": lambda state: serialization.from_state_dict(state, serialization.to_state_dict(state)),
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "copy": copy.deepcopy,
    "paths": by_paths,
}


@pytest.mark.parametrize("name", marked(COMPRESSORS))
def test_whatever_stores_a_tree_gives_the_state_back(name):
    storable = [own for own in CONTAINERS if own not in ("gaps", "nnx")]  # Flax stores no random key, nor its own State
    container = storable[list(COMPRESSORS).index(name) % len(storable)]
    _, compressor, moved, pairs = subject(name, container, dtype(name, container))
    state = pairs[1][0]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    for store, round_trip in STORES.items():
        assert bit_equal(round_trip(state), state), store
    again = compressor.update(moved[2], STORES["msgpack"](state), 2)
    assert bit_equal((again, compressor.apply(moved[2], again)), pairs[2])


def test_unselected_leaves_come_back_themselves():
    params = CONTAINERS["linen"](jnp.float32)
    recipe = jc.partition([(".*/kernel", jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(2)))])
    view = recipe.apply(params, recipe.init(params))
    for path, leaf in named_leaves(view).items():
        assert (leaf is named_leaves(params)[path]) == ("kernel" not in path)


def test_state_is_optax_masked_where_a_leaf_is_left_out():
    params = CONTAINERS["gaps"](jnp.float32)
    for compressor in (jc.prune.magnitude(0.5), jc.quant.fake()):
        state = compressor.init(params)
        assert state["conv"]["stride"] == optax.MaskedNode()
        assert state["dropout"]["key"] == optax.MaskedNode()
        assert (state["empty"], state["none"]) == ({}, None)
