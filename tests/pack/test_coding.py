"""Laws of coding: a tensor of any dtype and shape comes back bit for bit, in the smallest form at hand."""

import math
import tracemalloc

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxcomp.core.types import Grid
from jaxcomp.pack import coding, pieces, streams
from jaxcomp.quant import every_format, fake

RNG = np.random.default_rng(0)
NAMES = ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64))]
NAMES += ["float16", "float32", "float64", "complex64", "complex128", "bfloat16"]
NAMES += ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e8m0fnu", "float4_e2m1fn"]
REALS = ["float32", "bfloat16", "float16", "float64"]


def there_and_back(array, grid=None, format=None):
    coded, ranged = (coding.encode(array, grid, format, ranges=ranges) for ranges in (False, True))
    for each in (coded, ranged):
        again = coding.decode(each, array.shape, array.dtype)
        assert (again.shape, again.dtype) == (array.shape, array.dtype)
        assert again.tobytes() == array.tobytes()
        assert again.flags.writeable
    assert ranged.off_grid == coded.off_grid
    assert ranged.size <= coded.size * 1.01
    assert not coded.ranged
    return coded


def stored(coded):
    return sum(map(len, coded.streams))


def on_grid(levels, scale, dtype="float32"):
    work = np.float64 if dtype == "float64" else np.float32
    return (levels.astype(work) * scale.astype(work)).astype(coding.dtype_named(dtype))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (3, 3, 4, 8)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_and_shape_comes_back(name, shape):
    for density in (0.0, 0.1, 1.0):
        values = np.asarray(RNG.normal(size=shape) * 3 * (RNG.random(shape) < density))
        with np.errstate(invalid="ignore"):  # two bits hold few of them: any others will do
            array = (np.abs(values) if name.startswith("uint") else values).astype(coding.dtype_named(name))
        there_and_back(array)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_every_bit_pattern_comes_back(name):
    dtype = coding.dtype_named(name)
    bits = RNG.bytes(512 * dtype.itemsize)
    there_and_back(np.frombuffer(bits, dtype))
    specials = np.array([0.0, -0.0, np.nan, -np.nan, 1.0], np.float32).astype(dtype)
    there_and_back(np.tile(specials, 20))
    there_and_back(np.where(np.arange(500) % 9, specials[0], specials[1]))


def test_arrays_in_any_memory_order_come_back():
    array = RNG.normal(size=(6, 4, 2)).astype(np.float32)
    for view in (array.T, array[::2], np.asfortranarray(array), np.broadcast_to(np.float32(2), (3, 3))):
        there_and_back(view)


@pytest.mark.parametrize("name", ["int8", "int32", "uint8", "bool", "int4"])
def test_integers_of_few_bits_are_packed(name):
    values = RNG.integers(0, 2, 4000).astype(coding.dtype_named(name))
    coded = there_and_back(values)
    assert coded.kind == "ints"
    assert stored(coded) <= 4000 / 8 + 1


@pytest.mark.parametrize("axis", [None, -1, (0, 1)])
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("sparsity", [0.0, 0.8])
def test_values_on_a_grid_are_stored_as_codes(dtype, axis, sparsity):
    shape = (3, 3, 8, 16)
    kept = {None: (), -1: (3,), (0, 1): (0, 1)}[axis]
    scale = RNG.uniform(1e-3, 1e-1, [n if i in kept else 1 for i, n in enumerate(shape)]).astype(np.float32)
    levels = RNG.integers(-7, 8, shape) * (RNG.random(shape) >= sparsity)
    view = on_grid(levels, scale, dtype)
    for zero_point in (np.zeros(scale.shape, np.int32), RNG.integers(-3, 4, scale.shape, dtype=np.int32), np.int32(2)):
        coded = there_and_back(view, Grid(scale, zero_point))
        assert coded.kind.startswith("codes")
        assert not coded.off_grid
        _, counts = np.unique(levels, return_counts=True)
        shares = counts / levels.size
        entropy = -(shares * np.log2(shares)).sum() * levels.size / 8
        assert stored(coded) < 1.15 * entropy + 60 + scale.size * (8 if dtype == "float64" else 4) + scale.size


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("dtype", "bits"), [("float32", 8), ("bfloat16", 8), ("float32", 2)])
def test_the_fake_quantizer_is_stored_as_codes(dtype, bits, symmetric):
    params = {"w": jnp.asarray(RNG.normal(size=(64, 32)), dtype), "dead": jnp.zeros((64, 32), dtype)}
    recipe = fake(bits, axis=-1, symmetric=symmetric)
    state = recipe.init(params)
    view = recipe.apply(params, state)
    coded = there_and_back(np.asarray(view["w"]), recipe.describe(params, state, 0)["w"].grid)
    assert coded.kind.startswith("codes")
    assert stored(coded) < 64 * 32 * bits / 8 + 32 * 4 + 32 + 10
    assert not there_and_back(np.asarray(view["dead"]), recipe.describe(params, state, 0)["dead"].grid).off_grid


FORMATS = ["int1", "pot4", "apot6", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "nf4", "int3", "int3_affine"]


@pytest.mark.parametrize("block", [None, 7])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_stored_as_codes_of_its_bits(name, dtype, block):
    format = every_format()[name.replace("int1", "binary")]
    for sparsity in (0.0, 0.7):
        w = RNG.normal(size=(3, 3, 8, 16)) * (RNG.random((3, 3, 8, 16)) >= sparsity)
        recipe = fake(format, axis=-1, block=block)
        params = {"w": jnp.asarray(w, dtype)}
        state = recipe.init(params)
        view, note = np.asarray(recipe.apply(params, state)["w"]), recipe.describe(params, state, 0)["w"]
        coded = there_and_back(view, note.grid, note.format)
        assert not coded.off_grid
        assert coded.kind.startswith("codes") or sparsity or block  # bfloat16 may be smaller than scales and codes
        zeros = w.size / 8 if sparsity and name == "int1" else 0
        scales = note.grid.scale.size * (5 if format.affine else 4)
        assert stored(coded) < w.size * format.bits / 8 + zeros + scales + 20


@pytest.mark.parametrize("dtype", REALS)
def test_negative_zeros_on_a_grid_come_back_as_codes(dtype):
    levels = RNG.integers(-7, 8, (40, 50))
    view = on_grid(levels, np.float32([[0.1]]), dtype)
    view[(levels == 0) & (RNG.random(levels.shape) < 0.5)] = -0.0
    coded = there_and_back(view, Grid(np.float32([[0.1]]), np.int32([[0]])))
    assert coded.kind in ("codes+mask", "codes+gaps")


OFF = {
    "one value": lambda view: np.concatenate([view[:-1], np.nextafter(view[-1:], np.float32(9))]),
    "nan": lambda view: np.concatenate([view[:-1], np.float32([[np.nan] * view.shape[1]])]),
    "inf": lambda view: np.concatenate([view[:-1], np.float32([[np.inf] * view.shape[1]])]),
    "other values": lambda view: RNG.normal(size=view.shape).astype(np.float32),
    "other shape": lambda view: view[:, :-1],
    "other rank": lambda view: view.reshape(-1),
    "integers": lambda view: RNG.integers(-9, 9, view.shape, np.int32),
}


@pytest.mark.parametrize("change", OFF.values(), ids=OFF.keys())
def test_values_off_their_grid_are_stored_as_they_are_and_told(change):
    scale = RNG.uniform(0.1, 1, (1, 20)).astype(np.float32)
    view = on_grid(RNG.integers(-127, 128, (30, 20)), scale)
    coded = there_and_back(change(view), Grid(scale, np.zeros((1, 20), np.int32)))
    assert not coded.kind.startswith("codes")
    assert coded.off_grid


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-45, 1e38])
def test_a_scale_of_any_value_is_safe(scale):
    with np.errstate(all="ignore"):
        for view in (RNG.normal(size=(9, 9)).astype(np.float32), np.float32([[scale, 0.0], [-scale, 2 * scale]])):
            there_and_back(view, Grid(np.float32([[scale]]), np.int32([[0]])))


def test_zeros_are_left_out_where_that_is_smaller():
    dense = RNG.normal(size=(64, 64)).astype(np.float32)
    pruned = np.where(RNG.random(dense.shape) < 0.9, np.float32(0), dense)
    channels = np.where(np.arange(64) % 2, np.float32(0), dense)
    assert there_and_back(dense).kind == "plain"
    assert there_and_back(pruned).kind == "plain+gaps"
    assert there_and_back(channels).kind.startswith("plain+")
    entropy = 4096 * -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9)) / 8
    assert stored(there_and_back(pruned)) < 4 * np.count_nonzero(pruned) + 1.06 * entropy + 60


def test_an_unknown_kind_or_dtype_is_a_value_error():
    with pytest.raises(ValueError, match="newer"):
        coding.decode(coding.Coded("arithmetic", [], [b"\0"]), (0,), np.dtype("float32"))
    with pytest.raises(ValueError, match="newer"):
        coding.decode(coding.Coded("plain+runs", [], [b"\0", b"\0"]), (0,), np.dtype("float32"))
    for name in ("object", "void32", "str", "finfo", "datetime64", "__name__", "float0"):
        with pytest.raises(ValueError, match="dtype"):
            coding.dtype_named(name)


def test_each_dtype_has_one_name():
    for name in NAMES:
        assert coding.dtype_named(name).name == name
    assert coding.dtype_named("bfloat16") == ml_dtypes.bfloat16


LARGE = pieces.PIECE + pieces.SAMPLE + 77
LARGES = {
    "dense": lambda rng: rng.normal(size=LARGE).astype(np.float32),
    "few zeros": lambda rng: (rng.normal(size=LARGE) * (rng.random(LARGE) < 0.97)).astype(np.float32),
    "many zeros": lambda rng: (rng.normal(size=LARGE) * (rng.random(LARGE) < 0.1)).astype(ml_dtypes.bfloat16),
    "blocks of zeros": lambda rng: (rng.normal(size=LARGE) * (np.arange(LARGE) % 900 < 300)).astype(np.float64),
    "zeros": lambda rng: np.zeros(LARGE, np.float32),
    "zeros in the sample alone": lambda rng: np.where(
        np.isin(np.arange(LARGE), pieces.sample(LARGE)), 0, rng.normal(size=LARGE)
    ).astype(np.float32),
    "one": lambda rng: np.eye(1, LARGE, LARGE - 1, dtype=np.float16)[0],
    "noise": lambda rng: rng.integers(0, 256, LARGE, np.uint8),
    "int8": lambda rng: np.clip(np.rint(rng.normal(size=LARGE) * 30), -127, 127).astype(np.int8),
    "wide": lambda rng: rng.integers(-(2**20), 2**20, LARGE, np.int32),
    "bool": lambda rng: rng.random(LARGE) < 0.3,
    "signs": lambda rng: (2 * rng.integers(0, 2, LARGE) - 1).astype(np.int8),
    "complex": lambda rng: (rng.normal(size=LARGE) + 1j * (rng.random(LARGE) < 0.5)).astype(np.complex64),
}


@pytest.mark.parametrize("make", LARGES.values(), ids=LARGES.keys())
def test_what_is_coded_in_pieces_comes_back_no_larger_than_it_was(make):
    array = make(np.random.default_rng(1))
    assert stored(there_and_back(array)) <= array.nbytes * 1.001 + 1


@pytest.mark.parametrize("levels", [15, 16, 1000])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_codes_in_pieces_are_those_of_each_channel(axis, levels):
    rng = np.random.default_rng(2)
    shape = (90, 31, 61)
    scale = rng.uniform(0.1, 1, [n if i == axis else 1 for i, n in enumerate(shape)]).astype(np.float32)
    codes = rng.integers(0, levels, shape) * (rng.random(shape) < 0.4)
    zero_point = rng.integers(0, 9, scale.shape, np.int32)
    coded = there_and_back(on_grid(codes, scale), Grid(scale, zero_point))
    assert coded.kind.startswith("codes")
    assert not there_and_back(on_grid(codes, scale), Grid(scale * 3, zero_point)).off_grid or levels > 255


def test_coding_a_large_tensor_takes_little_memory():
    """Beside the tensor no more than 1.5 times it, both ways, by NumPy's and Python's own count."""
    rng = np.random.default_rng(3)
    size = 6_000_000
    levels = rng.integers(-100, 100, size).astype(np.int8)
    grid = Grid(np.float32([0.01]), np.int32([0]))
    dense = rng.standard_normal(size // 2, np.float32)
    for array, own in ((levels, None), (dense, None), (levels.astype(np.float32) * np.float32(0.01), grid)):
        tracemalloc.start()
        coded = coding.encode(array, own)
        encoding = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        again = coding.decode(coded, array.shape, array.dtype)
        decoding = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        assert again.tobytes() == array.tobytes()
        fixed = 12e6  # some pieces in each thread
        assert encoding < 1.5 * array.nbytes + fixed
        assert decoding - array.nbytes < 0.5 * array.nbytes + fixed


@pytest.mark.parametrize("k", [1, 2, 16, 200])
@pytest.mark.parametrize("name", REALS)
def test_few_values_are_a_table_and_places(name, k):
    dtype = coding.dtype_named(name)
    values = np.unique(RNG.normal(size=k).astype(dtype).astype(np.float64)).astype(dtype)
    array = RNG.choice(values, size=(64, 96))
    coded = there_and_back(array)
    small = math.ceil(math.log2(max(len(values), 2))) / 8 * array.size + values.nbytes + 40
    assert stored(coded) <= small * 1.05
    array[RNG.random(array.shape) < 0.6] = 0
    assert stored(there_and_back(array)) <= small + array.size / 8
    odd = array.copy()
    odd[0, :4] = [-0.0, 0.0, np.nan, np.inf]
    there_and_back(odd)


def test_a_table_that_does_not_fit_is_a_value_error():
    array = RNG.choice(np.float32([0.1, 0.7, -3.0]), size=(64, 64))
    coded = coding.encode(array)
    assert coded.kind.startswith("table:")
    numbers, *args = coded.args
    shapes = array.shape, array.dtype
    for wrong in ([2, *numbers[1:]], [0, 0, 1], [3, 5, 1], [3, 1, 4], [True, 1, 1], "abc", [3, 1]):
        with pytest.raises(ValueError, match=r"table|fewer bytes|beyond|more|places"):
            coding.decode(coded._replace(args=[wrong, *args]), *shapes)
    with pytest.raises(ValueError, match="table"):
        coding.decode(coded._replace(streams=coded.streams[:1]), *shapes)
    with pytest.raises(ValueError, match="kind"):
        coding.decode(coded, array.shape, np.dtype("int32"))


def test_a_small_tensor_on_a_grid_is_coded_from_its_codes_alone(monkeypatch):
    """Deflating its values as they are, in every way, took as long as all else: nine times the tensor's bytes."""
    fed = []
    code = streams._code
    monkeypatch.setattr(streams, "_code", lambda raw, *way: fed.append(len(raw)) or code(raw, *way))
    scale, levels = np.float32(np.linspace(0.5, 1.5, 64)), RNG.integers(-7, 8, (64, 64)) * (RNG.random((64, 64)) < 0.2)
    array = on_grid(levels, scale)
    there_and_back(array, Grid(scale, np.zeros(64, np.int32)))
    assert 0 < sum(fed) < 5 * array.nbytes  # with and without the range coder
