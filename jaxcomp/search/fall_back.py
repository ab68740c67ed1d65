"""Fallback: quantize everything, then give the most harmful layers back until the function is as good as asked."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from jaxcomp.core.calls import check_function
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.progress import Progress, shows_progress
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.rewrite.quant.calibrate import calibrate
from jaxcomp.rewrite.quant.scheme import Scheme
from jaxcomp.search.harms import usual_harm
from jaxcomp.search.sensitivity import Sensitivity, sensitivity
from jaxcomp.search.switched import Switched
from jaxcomp.trace.integer_weights import check_reads_weights

Metric = Callable[[Callable[..., Any], Params], float]
"""``(function, its parameters) -> a number, the higher the better``."""


class Fallback(NamedTuple):
    """The layers that were given back.

    Attributes:
      scheme: ``{path: Scheme or None}`` for :func:`jaxcomp.rewrite.quantize`.
      reverted: the paths of weights that were given back, the most harmful first.
      score: that was reached.
      whole: the score of the original function.
      tried: ``(how many were given back, score)`` of each trial, in order.
    """

    scheme: dict[str, Scheme | None]
    reverted: tuple[str, ...]
    score: float
    whole: float
    tried: tuple[tuple[int, float], ...]


@shows_progress
def fall_back(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    score: Metric,
    *,
    drop: float,
    scheme: Scheme = Scheme(),  # noqa: B008 - a value
    instead: Scheme | None = None,
    found: Sensitivity | None = None,
    select: Select | None = None,
    progress: Progress = None,
) -> Fallback:
    """Gives back as few layers, by their harm, as it takes to lose no more than asked.

    How many is found by halving, as if each layer that is given back only did good; what is returned was scored.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters.
      batches: calibration batches.
      score: ``(function, params) -> number``, the higher the better (accuracy on a validation set); is given a
        function of the same arguments that rounds what the integer one would.
      drop: by how much the score may fall below that of the function as it is.
      scheme: how all weights are quantized to begin with; inputs static or None.
      instead: the scheme of harmful layers; None: they stay in floating point.
      found: a table of one option or more, the first of which ranks the layers; None: it is made of the batches, by KL,
        or by squared error where the outputs are no single array of logits.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Raises:
      ArgumentError: if the drop is exceeded even with every layer given back, or is negative; if the score of the
        function as it is is no finite number. A later score of NaN falls short, as -inf.

    Example:
      >>> import jax.numpy as jnp
      >>> layers = lambda p, x: x @ p["a"] @ p["b"]
      >>> params = {"a": jnp.array([[1.0, 0.45], [0.4, 1.0]]), "b": jnp.eye(2)}
      >>> x = jnp.array([[1.0, 0.5], [-0.2, 0.7]])
      >>> score = lambda function, p: -float(jnp.abs(function(p, x) - layers(params, x)).max())
      >>> fall_back(layers, params, [x], score, drop=0.1, scheme=Scheme(2, inputs=None)).reverted
      ('a',)

    Reference: Neural Network Compression Framework, accuracy-aware quantization, 2020 onwards.
    """
    if not drop >= 0:
        raise ArgumentError(f"drop must be at least 0, got {drop!r}")
    check_function(score, "score(function, params)")
    check_reads_weights(apply_fn, "fall_back")
    given = checked_batches(apply_fn, params, batches, select)
    if found is None:
        harm = usual_harm(jax.eval_shape(apply_fn, params, *given[0]))
        found = sensitivity(apply_fn, params, given, {"all": scheme}, harm=harm, progress=progress)
    ranked = list(found.of(found.options[0])) if found.rows else []
    switched = Switched(apply_fn, params, *given[0])
    choices = [each for each in (scheme, instead) if each is not None]
    ranges = {each: calibrate(apply_fn, params, given, each, progress=progress) for each in choices}

    def chosen(count: int) -> dict[str, Scheme | None]:
        return {path: instead if i < count else scheme for i, path in enumerate(ranked)}

    def scored(count: int) -> float:
        targets = switched.targets(chosen(count))
        own = {path: ranges[target.scheme].get(path) for path, target in targets.weights.items()}
        known = {path: grid for path, grid in own.items() if grid is not None}
        switches = switched.switched(switched.off(), targets, known)
        held = switched.rounded(params, targets, {})
        reached = float(score(lambda params, *inputs: switched(params, switches, *inputs), held))
        return -math.inf if math.isnan(reached) else reached  # what is no number is never good enough

    whole = float(score(apply_fn, params))
    if not math.isfinite(whole):
        raise ArgumentError(
            f"the original function scores {whole!r}, from which no drop can be measured: give a score that returns a "
            "finite number, and parameters and data for which it does"
        )
    tried: dict[int, float] = {0: scored(0)}
    low, high = 0, len(ranked)  # low falls short, once tried; high does not, as far as is known
    if tried[0] < whole - drop:
        tried[high] = scored(high)
        if tried[high] < whole - drop:
            raise ArgumentError(
                f"with every layer given back the score is {tried[high]:.6g}, and {whole - drop:.6g} is asked for "
                f"({whole:.6g} less {drop:.6g}): allow a larger drop, or give them something finer instead"
            )
        while high - low > 1:
            middle = (low + high) // 2
            tried[middle] = scored(middle)
            low, high = (low, middle) if tried[middle] >= whole - drop else (middle, high)
        low = high
    return Fallback(chosen(low), tuple(ranked[:low]), tried[low], whole, tuple(tried.items()))
