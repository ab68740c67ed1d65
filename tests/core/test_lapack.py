"""LAPACK side by side: what it solves, and that threads are given back."""

import numpy as np
import pytest

from jaxcomp.core import lapack

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("known", [True, False])
def test_a_triangle_is_enough(dtype: type, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RNG.standard_normal((40, 30))
    matrix, wanted = rows.T @ rows, RNG.standard_normal(30)
    if not known:
        monkeypatch.setattr(lapack, "_posv", lambda kind: None)
    half = np.where(np.tri(30), matrix, np.nan).astype(dtype)
    found = lapack.solved(half, wanted.astype(dtype))
    assert found is not None
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.linalg.solve(matrix, wanted), rtol=1e-2 if dtype == np.float32 else 1e-9)
    assert lapack.solved(-np.eye(3, dtype=dtype), np.ones(3, dtype)) is None


def test_all_items_are_worked_on_and_errors_are_raised() -> None:
    seen: list[int] = []
    lapack.side_by_side(seen.append, range(9))
    assert sorted(seen) == [*range(9)]
    lapack.side_by_side(seen.append, [])
    with pytest.raises(ZeroDivisionError):
        lapack.side_by_side(lambda x: 1 // x, [1, 0])


def test_threads_are_given_back_by_the_last_that_leaves() -> None:
    with lapack.one_thread():
        with lapack.one_thread():
            assert lapack._ALONE[0] in (0, 2)  # 0 where it is not OpenBLAS
        assert lapack._ALONE[0] in (0, 1)
    assert lapack._ALONE[0] == 0
