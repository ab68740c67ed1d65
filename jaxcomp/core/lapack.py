"""LAPACK for many problems of some hundred unknowns: each on the thread that asks, side by side.

Where OpenBLAS shares one such problem between threads they wait for each other as long as they work, and a hundred
times as long if something else runs on their cores. SciPy's functions hold Python's lock; its pointers to LAPACK,
which are there for compilers such as Numba, do not.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.linalg import cython_lapack, lapack

_LOCK = threading.Lock()
_ALONE = [0, 0]  # calls in `one_thread`, and how many threads there were


def solved(matrix: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    r"""Solves :math:`A x = b` by Cholesky's factorization; None where A is not positive definite.

    Args:
      matrix: A ``[n, n]``, of which the triangle up to the diagonal is read; overwritten.
      wanted: b ``[n]``, of the same dtype, float32 or float64.

    Example:
      >>> solved(np.array([[4.0, 0.0], [2.0, 5.0]]), np.array([8.0, 12.0])).tolist()
      [1.0, 2.0]
      >>> solved(-np.eye(2), np.ones(2)) is None
      True
    """
    kind, size, found = matrix.dtype.char.replace("f", "s"), len(matrix), wanted.copy()
    posv = _posv(kind)
    if posv is None or not matrix.flags.c_contiguous:
        (plain,) = lapack.get_lapack_funcs(("posv",), (matrix,))
        _, found, failed = plain(matrix.T, wanted, overwrite_a=1)  # whose columns are in a row
        return None if failed else found
    n, one, failed = ctypes.c_int(max(size, 1)), ctypes.c_int(1), ctypes.c_int(0)
    order, ref = ctypes.c_int(size), ctypes.byref
    posv(b"U", ref(order), ref(one), matrix.ctypes.data, ref(n), found.ctypes.data, ref(n), ref(failed))
    return None if failed.value else found


@functools.cache
def _posv(kind: str) -> Callable[..., None] | None:
    """LAPACK's own function; None where SciPy's has other integers."""
    capsule, api = cython_lapack.__pyx_capi__[f"{kind}posv"], ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    name = name_of(capsule)
    if not name.startswith(b"void (char *, int *, int *, "):
        return None
    numbers, data = ctypes.POINTER(ctypes.c_int), ctypes.c_void_p
    types: list[Any] = [ctypes.c_char_p, numbers, numbers, data, numbers, data, numbers, numbers]
    return ctypes.CFUNCTYPE(None, *types)(address_of(capsule, name))


def side_by_side(function: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Calls a function for each item, as many at once as there are cores; each has LAPACK for itself.

    Args:
      function: what it returns is dropped.
      items: its arguments.
    """
    count = min(len(items), os.cpu_count() or 1)

    def some(first: int) -> None:
        for item in items[first::count]:
            function(item)

    with one_thread(), ThreadPoolExecutor(max(count, 1), "lapack") as workers:
        for _ in workers.map(some, range(count)):
            pass  # what was raised is raised here


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Lets SciPy's LAPACK work on the thread that calls it alone, where it is OpenBLAS; else it stays as it is."""
    library = ctypes.CDLL(cython_lapack.__file__)
    names = [f"{prefix}openblas_%s_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("", "64_")]
    name = next((each for each in names if hasattr(library, each % "set")), None)
    if name is None:
        yield
        return
    set_, get = getattr(library, name % "set"), getattr(library, name % "get")
    with _LOCK:
        if not _ALONE[0]:
            _ALONE[1] = get()
            set_(1)
        _ALONE[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _ALONE[0] -= 1
            if not _ALONE[0]:
                set_(_ALONE[1])
