"""Laws of contexts: one who decodes knows each table in time, tables are whole numbers, and dead parts cost nothing."""

import numpy as np
import pytest

from jaxcomp.pack import contexts, entropy

SHAPES = [
    (),
    (1,),
    (5000,),
    (3, 1000),
    (1000, 3),
    (96, 64),
    (30, 16),
    (3, 3, 16, 32),
    (5, 5, 1, 6),
    (2, 40, 40),
    (0, 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slices_take_each_position_once(shape):
    layout = contexts.Layout.of(shape)
    slices = list(layout.slices())
    every = [layout.positions(begin, end) for begin, end in slices]
    size = int(np.prod(shape))
    assert sorted(np.concatenate(every or [np.zeros(0, int)]).tolist()) == list(range(size))
    assert [begin for begin, _ in slices] == [0, *(end for _, end in slices)][: len(slices)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (-7, 7), (-128, 127), (5, 900), (-900, -5), (0, 1023)])
def test_tables_are_of_one_sum_and_deny_nothing(low, high):
    rng = np.random.default_rng(0)
    layout = contexts.Layout.of((3, 3, 20, 30))
    held = contexts.Contexts(layout, low, high, 3)
    for begin, end in layout.slices():
        which = held.of(begin, end)
        assert which.shape == (end - begin, layout.columns)
        tables = held.tables()
        assert tables.dtype == np.int64
        assert tables.min() >= 1
        assert (tables.sum(axis=1) == contexts.TOTAL).all()
        assert which.max() < len(tables)
        held.see(begin, rng.integers(low, high + 1, which.shape), which)


def test_counts_that_are_large_do_not_wrap():
    layout = contexts.Layout.of((4, 4))
    held = contexts.Contexts(layout, -100, 100, 3)
    held._counts[:] = 2**31
    assert (held.tables().sum(axis=1) == contexts.TOTAL).all()
    assert held.tables().min() >= 1


def length(codes):
    """Bytes by the model, and by the frequencies of the values alone."""
    numbers = entropy.Numbers(int(codes.min()), int(codes.max()), int(16 * np.abs(codes).mean()) + 1)
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / codes.size
    return (
        entropy.ideal_bytes(codes.shape, codes.reshape(-1).__getitem__, numbers),
        -(counts * np.log2(shares)).sum() / 8,
    )


RNG = np.random.default_rng(0)
NOISE = RNG.integers(-3, 4, (3, 3, 32, 32))
STRUCTURED = {
    "dead outputs": NOISE * (np.arange(32) % 4 == 0),
    "dead inputs": NOISE * (np.arange(32) % 4 == 0)[:, None],
    "dead inputs of a matrix": RNG.integers(-3, 4, (256, 64)) * (np.arange(256) % 4 == 0)[:, None],
    "dead kernels": NOISE * (RNG.random((32, 32)) < 0.25),
    "loud outputs": np.rint(RNG.normal(size=(3, 3, 32, 32)) * np.geomspace(0.3, 30, 32)).astype(int),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_what_repeats_along_an_axis_is_cheaper_than_its_frequencies(name):
    model, entropy_alone = length(STRUCTURED[name])
    assert model < 0.95 * entropy_alone


@pytest.mark.parametrize("levels", [2, 3, 15, 255])
def test_noise_costs_little_more_than_its_frequencies(levels):
    codes = np.clip(np.rint(RNG.normal(size=(3, 3, 64, 64)) * levels / 6), -(levels // 2), levels // 2).astype(int)
    model, entropy_alone = length(codes)
    assert model < 1.02 * entropy_alone + 30
