"""Sharing after training: weights that hold a few values a layer, found on data so that outputs stay what they were."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.leaves import is_real
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.progress import Progress, shows_progress, told
from jaxcomp.core.rules import by_rule
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.observe.evidence import Evidence
from jaxcomp.posttrain.fit_bytes import file_size, first_rate, within
from jaxcomp.posttrain.in_turn import InTurn
from jaxcomp.posttrain.round_priced import rate_of
from jaxcomp.posttrain.round_report import RoundReport
from jaxcomp.posttrain.share_layer import Settings, nearest, shared
from jaxcomp.posttrain.share_layer import Shared as Solution
from jaxcomp.share.cluster import check_count
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, uses_of

Centers = int | Sequence[tuple[str, int | None]] | Mapping[str, int | None]
"""A number for all weights, rules ``[(regex, number or None), ...]``, or ``{path: number or None}`` of exact paths."""

MOST = 256
"""Centers of a layer that a file codes as places in a table."""


class Shared(NamedTuple):
    """Parameters whose weights hold few values.

    Attributes:
      params: of the same structure, shapes and dtypes as before.
      centers: ``{path: [k]}``, the values of each weight, in order.
      report: the treatment of each weight.
    """

    params: Params
    centers: dict[str, np.ndarray]
    report: RoundReport


@shows_progress
def share(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    k: Centers = 16,
    *,
    rate: float | None = None,
    file_bytes: int | None = None,
    fisher: Params | None = None,
    biases: bool = True,
    damping: float = 0.01,
    act_order: bool = True,
    sweeps: int = 4,
    places: int | None = None,
    select: Select | None = None,
    progress: Progress = None,
) -> Shared:
    r"""Makes the weights of each layer share k values so that, on data, its outputs stay what they were.

    Centers start at the exact weighted optimum (:func:`jaxcomp.share.optimal`, by the squares of what flows in).
    Then, in turn, weights go to centers in GPTQ's order, those that follow making up for each error, and centers move
    to where, given that, the error of the outputs is least. Zeros stay zero, and 0 then is one of the k.
    :func:`jaxcomp.pack.save` stores such a weight as a table and places in it.

    With a ``rate`` or a budget, what places take in the file counts beside errors, and each layer has as many centers,
    up to k, as cost least with these; 0 is one of them.

    Layers are solved one after another, and judged on examples that are held out, as of :func:`round_weights`; what is
    no better there than the nearest of the centers of least squared error is these.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, for inference.
      params: parameters alone or a whole tree of variables.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one).
      k: centers of each weight that a matmul or a convolution reads, the one at 0 included; by path or rules, None:
        that weight stays, as one of fewer than k numbers does.
      rate, file_bytes: as of :func:`round_weights`: what a bit is worth, or the bytes that the file may take; then k is
        at most 256.
      fisher: likewise, what the loss feels of weights; without a rate too: errors of outputs of which it feels little
        count little for the centers.
      biases: whether they take up the mean of the error.
      damping, act_order, sweeps, places: as of :func:`round_weights`.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Returns:
      The parameters, the centers of each weight, and a report that prints as a table.

    Raises:
      ArgumentError: for an argument out of range, no batch, batches of several shapes, a budget that no rate keeps to,
        and what is not finite; RuleError: for a rule that applies to no weight.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> layer = lambda p, x: x @ p["w"]
      >>> params = {"w": jax.random.normal(jax.random.key(0), (16, 8))}
      >>> new = share(layer, params, [jax.random.normal(jax.random.key(1), (64, 16))], 4)
      >>> new.centers["w"].shape, len(jnp.unique(new.params["w"]))
      ((4,), 4)

    Reference: Han, Mao and Dally, Deep compression, 2016; Frantar et al., GPTQ, 2023; Choi, El-Khamy and Lee, Towards
    the limit of network quantization, 2017 (Hessian-weighted and entropy-constrained centers).
    """
    params = concrete(params, "share")
    check_unquantized(apply_fn, params, "share")
    given, named = checked_batches(apply_fn, params, batches, select), named_leaves(params)
    program = trace(apply_fn, params, *given[0])
    uses = with_factors(program, uses_of(program), [*named.values()])
    counts = _counts(k, [path for path, each in uses.items() if each.sites and is_real(named[path])], named)
    few = {path: count for path, count in counts.items() if count > named[path].size}
    counts = {path: count for path, count in counts.items() if path not in few}
    own = {path: uses[path] for path in counts}
    if (rate is not None or file_bytes is not None) and max(counts.values(), default=1) > MOST:
        raise ArgumentError(f"a file has tables of at most {MOST} values: k must be no more beside a rate, got {k!r}")
    options: dict[str, Any] = {"biases": biases, "damping": damping, "act_order": act_order, "sweeps": sweeps}
    if file_bytes is not None:
        begin = rate or first_rate(file_bytes, {path: named[path].size for path in own})
        options |= {"places": places, "fisher": fisher, "progress": told(progress)}
        again = functools.partial(share, apply_fn, params, given, k, **options)
        return within(file_bytes, begin, lambda rate: again(rate=rate), lambda new: file_size(new.params, {}))
    weights = {path: named[path] for path in own}
    felt = None if rate is None and fisher is None else rate_of(1.0 if rate is None else rate, fisher, "gptq", weights)
    settings = Settings(damping, act_order, sweeps, felt, rate is not None)

    def near(path: str, _: bool) -> Solution:
        return nearest(named[path], counts[path])

    def better(path: str, use: Use, known: Evidence, plain: Solution) -> Solution:
        return shared(path, use, named[path], known, counts[path], settings, plain)

    options = {"biases": biases, "places": places, "judged": rate is None, "what": "share", "progress": progress}
    layers = InTurn(program, params, given, own, near, better, **options)
    centers = {path: np.unique(np.asarray(each.leaf)) for path, each in layers.found.items()}
    methods = {path: (f"{len(each)} centers", "share") for path, each in centers.items()}
    skipped = {path: "not asked for" for path, each in uses.items() if each.sites and path not in own}
    skipped |= {path: f"{count} centers for {named[path].size} weights" for path, count in few.items()}
    return Shared(layers.new_params, centers, layers.report(named, methods, skipped))


def _counts(k: Centers, paths: list[str], named: Mapping[str, Any]) -> dict[str, int]:
    """How many centers each weight has, checked."""
    found = {path: each for path, each in by_rule(k, paths).items() if each is not None}
    for path, count in found.items():
        check_count(count)
        check_finite({path: named[path]}, why="which no center is near to")
    return found
