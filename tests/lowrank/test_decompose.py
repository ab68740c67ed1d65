"""Decompositions are those of the textbooks, written out in NumPy."""

import numpy as np
import pytest

from jaxcomp.lowrank.decompose import Svd, Tucker

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("shape", "stack"), [((7, 5), ()), ((5, 7), ()), ((6, 4), (3,))])
def test_truncation_misses_by_the_dropped_singular_values(shape: tuple[int, ...], stack: tuple[int, ...]) -> None:
    weight = RNG.standard_normal((*stack, *shape))
    svd = Svd(weight)
    s2 = np.linalg.svd(weight, compute_uv=False) ** 2
    for rank in range(1, min(shape) + 1):
        into, out = svd.parts(rank)
        error = ((weight - into @ out) ** 2).sum()
        assert error == pytest.approx(s2[..., rank:].sum(), rel=1e-9, abs=1e-12)
        assert svd.energy[rank - 1] == pytest.approx(1 - s2[..., rank:].sum() / s2.sum(), rel=1e-12)
        np.testing.assert_allclose(np.linalg.norm(into, axis=-2), np.linalg.norm(out, axis=-1), rtol=1e-9)


def slow_hooi(kernel: np.ndarray, a: int, b: int, sweeps: int) -> np.ndarray:
    """Tucker-2 by unfolding and SVD, as written in the papers: ``[window, in, out]``."""
    into = np.linalg.svd(np.moveaxis(kernel, 1, 0).reshape(kernel.shape[1], -1))[0][:, :a]
    out = np.linalg.svd(np.moveaxis(kernel, 2, 0).reshape(kernel.shape[2], -1))[0][:, :b]
    for _ in range(sweeps):
        seen = kernel @ out
        into = np.linalg.svd(np.moveaxis(seen, 1, 0).reshape(kernel.shape[1], -1))[0][:, :a]
        seen = np.swapaxes(kernel, 1, 2) @ into
        out = np.linalg.svd(np.moveaxis(seen, 1, 0).reshape(kernel.shape[2], -1))[0][:, :b]
    core = np.einsum("wio,ia,ob->wab", kernel, into, out)
    return np.einsum("wab,ia,ob->wio", core, into, out)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 4), (5, 3), (5, 6)])
def test_tucker_is_hooi(a: int, b: int) -> None:
    kernel = np.random.default_rng(3).standard_normal((9, 5, 6))
    tucker = Tucker(kernel)
    start = np.einsum("ia,wab,bo->wio", *tucker.parts(a, b, sweeps=0))
    np.testing.assert_allclose(start, slow_hooi(kernel, a, b, 0), atol=1e-9)
    energy = tucker.energy[a - 1, b - 1]
    assert ((kernel - start) ** 2).sum() == pytest.approx((1 - energy) * (kernel**2).sum(), abs=1e-9)
    refined = np.einsum("ia,wab,bo->wio", *tucker.parts(a, b))
    np.testing.assert_allclose(refined, slow_hooi(kernel, a, b, 10), atol=1e-7)
    assert ((kernel - refined) ** 2).sum() <= ((kernel - start) ** 2).sum() + 1e-9
