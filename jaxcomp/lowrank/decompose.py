"""Decompositions of weights, by NumPy in float64: truncated SVD and Tucker-2, with the energy that each rank keeps.

The energy of a rank is the share of the squared entries that is left, which for an SVD is that of the squared singular
values. Leading axes stack weights that share a rank.
"""

import numpy as np


def _spectrum(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes eigenvalues, largest first and none below 0, and eigenvectors of symmetric matrices ``[..., n, n]``.

    Example:
      >>> _spectrum(np.diag([1.0, 4.0]))[0].tolist()
      [4.0, 1.0]
    """
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values[..., ::-1], 0), vectors[..., ::-1]


class Svd:
    """``matrix ~ into @ out``, the nearest of each rank; or the nearest in what comes out for given inputs.

    With ``outputs``, the second moment of ``x @ matrix`` over data, the error that is least is that of the outputs
    (an SVD of the matrix whitened by its inputs; no inverse is taken).

    Example:
      >>> svd = Svd(np.diag([3.0, 1.0]))
      >>> svd.energy.round(3).tolist(), [part.shape for part in svd.parts(1)]
      ([0.9, 1.0], [(2, 1), (1, 2)])

    Reference: Zhang et al., Accelerating very deep convolutional networks, 2016 (outputs); Hsu et al., Language model
    compression with weighted low-rank factorization, 2022.
    """

    def __init__(self, matrix: np.ndarray, outputs: np.ndarray | None = None):
        """Takes ``[..., m, n]`` and, if given, ``[..., n, n]``."""
        self.matrix = np.asarray(matrix, np.float64)
        across = np.swapaxes(self.matrix, -1, -2)
        self._left = outputs is None and matrix.shape[-2] < matrix.shape[-1]
        if outputs is not None:
            gram = np.asarray(outputs, np.float64)
        else:
            gram = self.matrix @ across if self._left else across @ self.matrix
        values, self._vectors = _spectrum(gram)
        self.full = min(matrix.shape[-2:])
        sums = values[..., : self.full].reshape(-1, self.full).sum(0)
        self.energy = np.cumsum(sums) / max(values.sum(), np.finfo(np.float64).tiny)
        if not values.any():
            self.energy = np.ones(self.full)

    def parts(self, rank: int) -> list[np.ndarray]:
        """Returns ``[..., m, rank]`` and ``[..., rank, n]``, of equal norm component by component."""
        basis = self._vectors[..., :rank]
        if self._left:
            into, out = basis, np.swapaxes(basis, -1, -2) @ self.matrix
        else:
            into, out = self.matrix @ basis, np.swapaxes(basis, -1, -2)
        share = np.sqrt(np.linalg.norm(into, axis=-2) / _positive(np.linalg.norm(out, axis=-1)))
        share = np.where(share > 0, share, 1)
        return [into / share[..., None, :], out * share[..., :, None]]


def _positive(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 1)


class Tucker:
    """``kernel[w, i, o] ~ sum_ab into[i, a] core[w, a, b] out[b, o]`` with orthonormal ``into`` and ``out``.

    The energies are those of the higher-order SVD; the parts are refined from there by orthogonal iteration.

    Example:
      >>> kernel = np.random.default_rng(0).standard_normal((9, 4, 6))
      >>> tucker = Tucker(kernel)
      >>> tucker.energy.shape, [part.shape for part in tucker.parts(2, 3)]
      ((4, 6), [(4, 2), (9, 2, 3), (3, 6)])

    Reference: De Lathauwer et al., On the best rank-1 and rank-(R1, ..., RN) approximation of higher-order tensors,
    2000; Kim et al., Compression of deep convolutional neural networks for fast and low power mobile applications,
    2016.
    """

    def __init__(self, kernel: np.ndarray):
        """Takes ``[..., window, in, out]``."""
        self.kernel = np.asarray(kernel, np.float64)
        self._into = _spectrum(_gram(self.kernel, "wio,wjo->ij"))[1]
        self._out = _spectrum(_gram(self.kernel, "wio,wip->op"))[1]
        core = np.einsum("...wio,...ia,...ob->...wab", self.kernel, self._into, self._out, optimize=True)
        squares = (core**2).reshape(-1, *core.shape[-2:]).sum(0)
        total = squares.sum()
        self.energy = squares.cumsum(0).cumsum(1) / total if total else np.ones_like(squares)

    def parts(self, into_rank: int, out_rank: int, sweeps: int = 10) -> list[np.ndarray]:
        """Returns ``[..., in, a]``, ``[..., window, a, b]`` and ``[..., b, out]``.

        Args:
          into_rank: a.
          out_rank: b.
          sweeps: of orthogonal iteration.
        """
        into, out = self._into[..., :into_rank], self._out[..., :out_rank]
        full = (into_rank, out_rank) == self.kernel.shape[-2:]
        for _ in range(0 if full else sweeps):
            seen = np.einsum("...wio,...ob->...wib", self.kernel, out, optimize=True)
            into = _spectrum(_gram(seen, "wio,wjo->ij"))[1][..., :into_rank]
            seen = np.einsum("...wio,...ia->...wao", self.kernel, into, optimize=True)
            out = _spectrum(_gram(seen, "wio,wip->op"))[1][..., :out_rank]
        core = np.einsum("...wio,...ia,...ob->...wab", self.kernel, into, out, optimize=True)
        return [into, core, np.swapaxes(out, -1, -2)]


def _gram(x: np.ndarray, formula: str) -> np.ndarray:
    left, result = formula.split("->")
    first, second = left.split(",")
    return np.einsum(f"...{first},...{second}->...{result}", x, x, optimize=True)
