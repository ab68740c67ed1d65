"""Factorize: the same function with large weights held as products of small ones."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax

from jaxcomp.core.arrays import concrete
from jaxcomp.core.meshes import beside
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.rules import ByPath
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select
from jaxcomp.observe.moments import second_moments
from jaxcomp.rewrite.lowrank.choose import Criterion, choose_factors
from jaxcomp.rewrite.lowrank.report import FactorReport, FactorRow
from jaxcomp.rewrite.rewritten import Born, RewrittenPacked, leaf_data, leaf_from
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import trace
from jaxcomp.trace.packed.leaf import Packed

FactorMethod = Literal["svd", "tucker", "spatial", "dense"]
Amount = float | tuple[float, float]
"""A number of components, a fraction of them, or for Tucker a pair of either."""


def factorize(
    apply_fn: Callable[..., Any],
    params: Params,
    *example: Any,
    rank: Amount | ByPath[Amount | None] | None = None,
    energy: float | ByPath[float | None] | None = None,
    macs: float | None = None,
    bytes: float | None = None,
    method: FactorMethod | ByPath[FactorMethod] | None = None,
    batches: Iterable[Any] | None = None,
    cheaper: bool = True,
    select: Select | None = None,
) -> tuple["Factorized", Params]:
    r"""Writes weights as products of smaller ones, and computes with those.

    ``svd``: :math:`W \approx A B`, of the matrix of what is summed over by what comes out; of a convolution, one to
    ``rank`` channels and a 1 x 1 from them. ``tucker``: 1 x 1, the window between fewer channels, 1 x 1. ``spatial``:
    the window's first axis, then the others. The method that is not named is the cheapest at equal energy (for a given
    ``rank``: Tucker of convolutions with a window, else SVD). Exactly one of ``rank``, ``energy``, ``macs`` and
    ``bytes`` says how much is kept. The energy of a rank is the share of the weight's squared entries that is left.

    A weight is factorized where matmuls or ungrouped convolutions read it, and nothing else does, through casts,
    transposes, reshapes, products with a number, and into scan (stacked weights: each layer by itself, all of one
    rank), remat, cond and custom derivatives. Every other one stays as it is; the report says why.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: parameters alone or a whole tree of variables.
      *example: the other arguments, or their shapes; MACs are those of this batch.
      rank: a number of components (1 or more), a fraction of them all (a float of at most 1), a pair of either for
        Tucker; None leaves a weight dense.
      energy: the share of energy to keep, in (0, 1].
      macs: the budget of all matmuls and convolutions together: a float of at most 1 is a share of what they cost now,
        an integer that many.
      bytes: the budget of all parameters together, likewise.
      method: ``"svd"``, ``"tucker"``, ``"spatial"``, or ``"dense"`` to leave a weight.
      batches: each the tuple of the other arguments (or the single one): the SVD then keeps what matters to the
        outputs on them, and energy is that of the outputs. Methods that are not named are then SVDs. Sites in loops and
        branches count as often as they run; the report names the weights that were factorized without data, and why.
      cheaper: leave a weight dense where its parts would cost as much.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    ``rank``, ``energy`` and ``method`` may be ``[(regex, value), ...]``, of which the first that matches the whole path
    counts, or ``{path: value}``: what is not named stays dense (or, of ``method``, is chosen as if none were given).

    Returns:
      The new function, whose ``report`` prints as a table, and its parameters, in which a factorized weight is a
      :class:`jaxcomp.rewrite.Packed` of arrays called ``in``, (``core``,) ``out``.

    Raises:
      ArgumentError: for none or several of the four targets, a value out of range, a budget that cannot be reached
        (with what can), parameters without values, or with NaN or infinity (with the path and how many); RuleError: for
        a rule that applies to nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"up": jnp.outer(jnp.arange(8.0), jnp.ones(8)), "bias": jnp.ones(8)}
      >>> layer = lambda p, x: x @ p["up"] + p["bias"]
      >>> new, factors = factorize(layer, params, jnp.ones((1, 8)), energy=0.99)
      >>> print(new.report)
      parameter  method  rank  skipped because  energy  MACs  before  bytes  before
      ---------  ------  ----  ---------------  ------  ----  ------  -----  ------
      up         svd     1                      1.0000    16      64     64     256
      ---------  ------  ----  ---------------  ------  ----  ------  -----  ------
      total                                               16      64     96     288
      left out: bias (read by add: no matmul or convolution)
      >>> jnp.allclose(new(factors, jnp.ones((3, 8))), layer(params, jnp.ones((3, 8))))
      Array(True, dtype=bool)

    Reference: Denton et al., Exploiting linear structure within convolutional networks, 2014; Jaderberg et al.,
    Speeding up convolutional neural networks with low rank expansions, 2014; Kim et al., Compression of deep
    convolutional neural networks for fast and low power mobile applications, 2016; Yuan et al., ASVD, 2023.
    """
    params = concrete(params, "factorize")
    criterion = Criterion.of(rank, energy, macs, bytes)
    named = named_leaves(params)
    check_unquantized(apply_fn, params, "factorize")
    program = trace(apply_fn, params, *example)
    moments = None if batches is None else second_moments(apply_fn, params, batches, select=select)
    found = choose_factors(program, named, criterion, method, moments, cheaper)
    packed = {path: jax.tree.map(lambda x, at=named[path]: beside(x, at), leaf) for path, leaf in found.packed.items()}
    new = Factorized(apply_fn, params, packed, found.report, Born(example, program, None))
    return new, replace_leaves(params, packed)


class Factorized(RewrittenPacked[None]):
    """A function that computes with factors. Made by :func:`factorize`.

    Attributes:
      report: the treatment of each weight.
    """

    name = "factorize"

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: Params,
        packed: Mapping[str, Packed],
        report: FactorReport,
        born: Born,
    ):
        """Takes what :func:`factorize` decided."""
        rows = [dataclasses.astuple(row) for row in report.rows]
        decision = {
            "leaves": {path: leaf_data(leaf) for path, leaf in packed.items()},
            "rows": rows,
            "dense": [report.dense_macs, report.dense_bytes],
        }
        said = f"{len(packed)} weights"
        super().__init__(apply_fn, params, packed, report=report, decision=decision, said=said, born=born)


def restored(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], data: Mapping[str, Any]
) -> tuple[Factorized, Params]:
    """Makes the function of a decision ``data`` again, and the shapes of its parameters.

    ``apply_fn`` is the original, ``params`` its parameters or their shapes, ``example`` the other arguments.
    """
    program = trace(apply_fn, params, *example)
    packed = {path: leaf_from(leaf, Packed) for path, leaf in data["leaves"].items()}
    rows = tuple(FactorRow(path, method, tuple(rank), *rest) for path, method, rank, *rest in data["rows"])
    macs, size = data["dense"]
    report = FactorReport(rows, macs, size, left_out(program, {row.path for row in rows}))
    return Factorized(apply_fn, params, packed, report, Born(example, program, None)), replace_leaves(params, packed)
