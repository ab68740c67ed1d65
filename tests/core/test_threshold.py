"""Selection by counting agrees with a stable sort: every kind of number, tie, group and layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxcomp.core import counting
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.threshold import keep_largest
from tests.core import reference

SIZE = 1001


def families(seed=0):
    """Arrays of 1001 float64 numbers: the well-behaved and the adversarial."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=SIZE)
    alternating = np.where(np.arange(SIZE) % 2, 1.0, -2.0)
    specials = normal.copy()
    specials[::50], specials[7::90], specials[9::90] = np.nan, np.inf, -np.inf
    zeros = np.where(rng.random(SIZE) < 0.5, 0.0, -0.0)
    return {
        "normal": normal,
        "uniform": rng.uniform(-1, 1, SIZE),
        "heavy-tailed": rng.standard_cauchy(SIZE),
        "all-equal": np.full(SIZE, -0.25),
        "zeros-of-both-signs": zeros,
        "one-among-zeros": np.where(np.arange(SIZE) == 700, 3.0, zeros),
        "two-values": alternating,
        "few-values": rng.integers(-3, 4, SIZE) / 4,
        "sixty-decades": 10.0 ** rng.uniform(-30, 30, SIZE) * rng.choice([-1, 1], SIZE),
        "ascending": np.arange(SIZE) / SIZE,
        "descending": -np.arange(SIZE) / SIZE,
        "one-outlier": np.where(np.arange(SIZE) == 3, 1e30, normal * 1e-3),
        "nan-and-inf": specials,
        "all-nan": np.full(SIZE, np.nan),
        "neighbors": np.nextafter(np.float32(1), np.float32(2)) ** rng.integers(0, 40, SIZE),
    }


def check(values, keep, group, score=jnp.abs, scores=np.abs):
    masks = keep_largest(values, keep, group, score=score)
    wanted = reference.keep_largest([scores(np.asarray(v, np.float64)) for v in values], keep, group)
    for mask, want, value in zip(masks, wanted, values, strict=True):
        assert (mask.shape, mask.dtype) == (value.shape, bool)
        np.testing.assert_array_equal(np.asarray(mask), want)


@pytest.fixture
def single_device(monkeypatch):
    """As on a machine of one device: arrays are counted piece by piece, and large ones are sampled first."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture(params=["array by array", "piece by piece"])
def either(request):
    """Both ways to count."""
    if request.param == "piece by piece":
        request.getfixturevalue("single_device")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", families())
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_agrees_with_a_stable_sort(family, dtype, either):
    value = jnp.asarray(families()[family], dtype)
    for k in (0, 1, 2, 100, 500, 501, 900, SIZE - 1, SIZE):
        check([value], [k], [0])


def test_agrees_over_random_families(rng, either):
    """A new distribution each time: a power law of a mixture, rounded to a random grid."""
    for _ in range(60):
        base = rng.normal(size=SIZE) * rng.choice([1.0, 10.0 ** rng.integers(-20, 20)], SIZE)
        value = np.sign(base) * np.abs(base) ** rng.uniform(0.2, 1.5)
        grid = rng.choice([0, 1e-3, 0.25, 1])
        value = np.round(value / grid) * grid if grid else value
        check([jnp.asarray(value, jnp.float32)], [int(rng.integers(0, SIZE + 1))], [0])


def test_denormal_scores_are_ordered_or_equal_to_zero(rng, either):
    """XLA:CPU flushes denormals to zero: the counts hold, and no normal number gives way to one."""
    value = jnp.asarray(
        np.where(np.arange(SIZE) % 3, rng.normal(size=SIZE) * 1e-41, rng.normal(size=SIZE)), jnp.float32
    )
    normal = np.abs(np.asarray(value)) >= np.finfo(np.float32).tiny
    for k in (1, 200, 334, 500, SIZE):
        mask = np.asarray(keep_largest([value], [k], [0])[0])
        assert mask.sum() == k
        assert not (normal & ~mask).any() or not (mask & ~normal).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("group", [(0, 1, 2, 3, 4), (0, 0, 0, 0, 0), (1, 0, 1, 0, 1)], ids=["layer", "global", "mixed"])
def test_groups_scalars_and_arrays_without_elements(rng, dtype, group, either):
    shapes = [(3, 5, 7), (), (0, 4), (30,), (1, 1)]
    sizes = [sum(int(np.prod(shape)) for shape, own in zip(shapes, group, strict=True) if own == g) for g in range(5)]
    sizes = sizes[: max(group) + 1]
    for _ in range(5):
        values = [jnp.asarray(np.round(rng.normal(size=shape) * 4) / 4, dtype) for shape in shapes]
        for keep in ([0] * len(sizes), sizes, [int(rng.integers(0, size + 1)) for size in sizes]):
            check(values, keep, group)


def test_scores_of_different_dtypes_are_ranked_together(rng, either):
    values = [jnp.asarray(rng.normal(size=40), dtype) for dtype in ("float32", "bfloat16", "float16")]
    check(values, [60], [0, 0, 0])


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3)])
def test_few_elements(shape, either):
    value = jnp.full(shape, -2.0)
    for k in range(value.size + 1):
        check([value], [k], [0])


def test_no_arrays():
    assert keep_largest([], [], []) == []
    assert keep_largest([], [0], []) == []


def test_a_custom_score_may_be_signed(rng, either):
    """The lowest and the highest of signed scores: the sign bit is part of the order."""
    value = jnp.asarray(np.concatenate([families()["few-values"], families()["sixty-decades"]]), jnp.float32)
    for k in (0, 1, 400, 1500, 2002):
        check([value], [k], [0], _signed, lambda v: v)


def _signed(values):
    return values


def _inverted(values):
    return -jnp.square(values)


def test_a_custom_score_may_be_negative_throughout(rng, either):
    value = jnp.asarray(rng.integers(-30, 30, SIZE), jnp.float32)
    for k in (1, 500, 1000):
        check([value], [k], [0], _inverted, lambda v: -(v**2))


def test_k_may_be_traced(rng, either):
    value = jnp.asarray(families()["few-values"], jnp.float32)
    count = jax.jit(lambda value, k: keep_largest([value], [k], [0])[0])
    for k in (0, 1, 333, SIZE):
        np.testing.assert_array_equal(count(value, jnp.int32(k)), reference.keep_largest([np.abs(value)], [k], [0])[0])


def test_maps_over_a_batch(rng, either):
    values = jnp.asarray(rng.normal(size=(4, 50)), jnp.float32)
    masks = jax.vmap(lambda value, k: keep_largest([value], [k], [0])[0])(values, jnp.arange(4) * 15)
    for value, k, mask in zip(values, range(0, 60, 15), masks, strict=True):
        np.testing.assert_array_equal(mask, reference.keep_largest([np.abs(value)], [k], [0])[0])


def test_pieces_overlap_are_filled_up_and_sampled(single_device, rng, monkeypatch):
    """Arrays of less than a piece, of whole pieces, and of some and a rest; groups with a sample and without."""
    monkeypatch.setattr(counting, "_PIECE", 64)
    shapes = [(7,), (64,), (3, 5, 65), (8, 128), (), (2, 33), (1000,)]
    for dtypes in (["float32"] * 7, ["bfloat16"] * 7, ["float32", "bfloat16", "float16"] * 2 + ["bfloat16"]):
        values = [jnp.asarray(np.round(rng.normal(size=s) * 64) / 64, d) for s, d in zip(shapes, dtypes, strict=True)]
        for group in ([0] * 7, [0, 1, 2, 2, 1, 0, 2]):
            sizes = np.bincount(group, [value.size for value in values]).astype(int)
            for part in (0.0, 0.03, 0.5, 1.0):
                check(values, [round(part * size) for size in sizes], group)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_arrays_of_a_single_device_agree(single_device, rng, dtype):
    """Large enough to be sampled, in distributions that mislead a sample."""
    shape = (512, 515)
    size = 512 * 515
    sample_sees = np.where(np.arange(size) % 127 == 0, 1e-3, 5.0)
    for value in (
        rng.normal(size=size),
        rng.standard_cauchy(size),
        np.ones(size),
        sample_sees,
        np.sort(rng.normal(size=size)),
    ):
        for k in (0, 1, size // 10, size // 2, size - 1, size):
            check([jnp.asarray(value.reshape(shape), dtype)], [k], [0])


def test_float64(rng, either):
    with jax.enable_x64(True):
        value = 1 + np.arange(SIZE) % 97 * 2.0**-52
        for k in (1, 500, 1000):
            check([jnp.asarray(value)], [k], [0])
        check([jnp.asarray(10.0 ** rng.uniform(-300, 300, SIZE))], [321], [0])


@functools.cache
def _compiled(mesh):
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    arguments = [jax.ShapeDtypeStruct((8192, 64), jnp.float32, sharding=sharding)] * 2
    arguments += [jax.ShapeDtypeStruct((3, 5), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))]
    search = jax.jit(lambda values, k: keep_largest(values, [k], [0, 0, 0]))
    return search.lower(arguments, jax.ShapeDtypeStruct((), jnp.int32)).compile()


def test_sharded_arrays_are_counted_where_they_are(mesh, sums_few_numbers):
    """The only collectives are sums of a few numbers."""
    sums_few_numbers(_compiled(mesh).as_text())


def test_the_masks_of_sharded_arrays_lie_where_the_arrays_do(mesh):
    (first, second, small), _ = _compiled(mesh).input_shardings[0]
    masks = _compiled(mesh).output_shardings
    assert all(mask.is_equivalent_to(first, 2) for mask in masks[:2])
    assert first == second
    assert masks[2].is_equivalent_to(small, 2)


def test_scores_are_never_held_in_memory(single_device):
    """Over several simulated devices they are: XLA:CPU fuses into variadic reductions alone, which it would gather."""
    argument = jax.ShapeDtypeStruct((4096, 4096), jnp.float32)
    compiled = jax.jit(lambda value, k: keep_largest([value], [k], [0])).lower(argument, jnp.int32(1)).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 0.1 * memory.argument_size_in_bytes


@pytest.mark.parametrize("group", ["layer", "global"])
def test_a_search_grows_little_with_the_number_of_arrays(single_device, group):
    """All arrays go through one loop: each adds a branch that takes a piece of it, and its mask."""

    def lines(number):
        groups = list(range(number)) if group == "layer" else [0] * number
        search = jax.jit(lambda values: keep_largest(values, [9] * (max(groups) + 1), groups))
        text = search.lower([jax.ShapeDtypeStruct((8, 5 + i), jnp.float32) for i in range(number)]).as_text()
        return sum("stablehlo" in line for line in text.splitlines())

    assert lines(30) - lines(10) <= 20 * 40


def test_too_many_elements_are_refused():
    with pytest.raises(ArgumentError, match=f"{2**32} elements are ranked as one group"):
        jax.eval_shape(
            lambda a, b: keep_largest([a, b], [1], [0, 0]), *[jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)] * 2
        )
