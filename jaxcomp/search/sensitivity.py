"""Sensitivity: what each layer's quantization, by itself, does to the function's outputs."""

import dataclasses
import functools
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.leaves import is_real
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.progress import Progress, shows_progress, told
from jaxcomp.core.tables import dims, table, with_left_out
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.rewrite.quant.calibrate import calibrate
from jaxcomp.rewrite.quant.encode import encode
from jaxcomp.rewrite.quant.quantize import quantize
from jaxcomp.rewrite.quant.scheme import Scheme
from jaxcomp.rewrite.quant.targets import Target
from jaxcomp.rewrite.restore import save
from jaxcomp.search.harms import HARMS, Harm, check_outputs
from jaxcomp.search.switched import Switched
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import check_reads_weights
from jaxcomp.trace.ir import trace
from jaxcomp.trace.sites import sites


class SensitivityRow(NamedTuple):
    """The cost of one choice for one weight.

    Attributes:
      path: the weight.
      shape: its own.
      option: the name of the choice.
      scheme: how it is quantized; None: it stays as it is.
      harm: the loss by it.
      memory_bytes: of everything in the weight's place, in memory, where codes of 3 bits take the 4 of half a byte.
      bit_operations: multiply-accumulates of its sites, times bits of the weight, times bits of what they read.
      file_bytes: of the weight alone in a file, before entropy coding: each code in as many bits as it has.
    """

    path: str
    shape: tuple[int, ...]
    option: str
    scheme: Scheme | None
    harm: float
    memory_bytes: int
    bit_operations: int
    file_bytes: int


@dataclass(frozen=True)
class Sensitivity:
    """Every choice for every weight; prints as a table of harm, a line a weight.

    Attributes:
      rows: weight by weight, for each its choices in their order.
      left_out: ``{path: what reads it}`` of the parameters that have no choice: they stay as they are.
      size_of: ``{path: Scheme or None} -> bytes`` of the whole network's file, whatever its numbers are; None of a
        table made by hand.
    """

    rows: tuple[SensitivityRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    size_of: Callable[[Mapping[str, Scheme | None]], int] | None = field(default=None, repr=False, compare=False)

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the choices."""
        return tuple(dict.fromkeys(row.option for row in self.rows))

    def of(self, option: str) -> dict[str, SensitivityRow]:
        """Returns the rows of one choice, by path, the most harmful first.

        Raises:
          ArgumentError: for a choice of another name.
        """
        if option not in self.options:
            raise ArgumentError(f"no option is called {option!r}; there are {', '.join(self.options)}")
        own = [row for row in self.rows if row.option == option]
        # What is no number is the worst that can be known of it.
        return {row.path: row for row in sorted(own, key=lambda row: -math.inf if math.isnan(row.harm) else -row.harm)}

    def __str__(self) -> str:
        by_path = {path: list(rows) for path, rows in itertools.groupby(self.rows, lambda row: row.path)}
        lines = [[path, dims(rows[0].shape), *(f"{row.harm:.3g}" for row in rows)] for path, rows in by_path.items()]
        return with_left_out(table(["weight", "shape", *self.options], lines), self.left_out)


@shows_progress
def sensitivity(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    options: Mapping[str, Scheme | None],
    *,
    harm: str | Harm = "kl",
    curvature: Params | None = None,
    select: Select | None = None,
    progress: Progress = None,
) -> Sensitivity:
    r"""Quantizes one layer at a time, by every choice, and measures what is lost.

    The function is compiled once: rounded weights, and which sites round what they read, are arguments.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: parameters alone or a whole tree of variables.
      batches: batches of one shape, each the tuple of the other arguments (or the single one).
      options: by name, the schemes that each weight can choose from; None: it stays as it is. Inputs are static
        integers (their ranges are calibrated on the batches) or not quantized.
      harm: ``"kl"``: :math:`\mathrm{KL}(p \| q)` of the softmax of logits, before and after; ``"error"``: squared error
        of all outputs, of any types, over their squares; or ``(outputs before, outputs after) -> scalar``: its mean
        over the batches. Where both are the same infinity nothing is lost; where only what comes after is no number, or
        what a function gives is none, the harm is infinite.
      curvature: instead, the loss's Hessian's diagonal (:func:`jaxcomp.observe.hessian_diagonal`, or
        :func:`jaxcomp.observe.fisher_diagonal` over the number of batches), a tree like ``params``: harm is then
        :math:`\frac{1}{2} \sum h (w - \hat w)^2`, of weights alone.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Returns:
      The table, which :func:`allocate` and :func:`fall_back` read; ``jaxcomp.measure.layer_sensitivity`` draws it.

    Raises:
      ArgumentError: for no option or batch, a measure of another name, logits that are none, outputs or curvature that
        hold NaN (with the path and how many), inputs that cannot be switched; as :func:`jaxcomp.rewrite.quantize`.

    Example:
      >>> import jax.numpy as jnp
      >>> layers = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
      >>> params = {"a": jnp.array([[1.0, -0.4], [0.3, 1.0]]), "b": jnp.eye(2)}
      >>> data = [jnp.array([[1.0, 0.5], [-0.2, 0.7]])]
      >>> found = sensitivity(layers, params, data, {"8": Scheme(8, inputs=None), "2": Scheme(2, inputs=None)})
      >>> list(found.of("2")), found.of("2")["b"].harm
      (['a', 'b'], 0.0)

    Reference: Wu et al., Integer quantization for deep learning inference, 2020; Dong et al., HAWQ-V2, 2020.
    """
    measure = HARMS.get(harm) if isinstance(harm, str) else harm
    if measure is None:
        raise ArgumentError(f"harm must be one of {', '.join(HARMS)} or a function, got {harm!r}")
    fine = isinstance(options, Mapping) and all(isinstance(each, Scheme | None) for each in options.values())
    if not fine or not options:
        raise ArgumentError(
            f"options must be at least one option, {{name: Scheme or None}}, got {options!r:.80}: "
            '{"8": jc.rewrite.Scheme(bits=8), "4": jc.rewrite.Scheme(bits=4)}'
        )
    params = concrete(params, "sensitivity")
    check_reads_weights(apply_fn, "sensitivity")
    given = checked_batches(apply_fn, params, batches, select)
    switched = Switched(apply_fn, params, *given[0])
    run = jax.jit(switched)
    dense = [run(params, switched.off(), *batch) for batch in given]
    for outputs in dense if curvature is None else ():
        check_outputs(outputs, measure)
    bent = None if curvature is None else _curvatures(curvature, params, switched.paths)
    compare, costs = jax.jit(measure), _costs(apply_fn, params, given[0])
    found: dict[tuple[str, str], SensitivityRow] = {}
    count = len(options) * len(switched.paths)
    ranges_of: dict[Any, Any] = {None: {}}  # choices of weights' bits read the same
    for name, scheme in options.items():
        read = scheme and (scheme.inputs, scheme.input_format)
        if read not in ranges_of:
            ranges_of[read] = calibrate(apply_fn, params, given, scheme, progress=progress)
        ranges = ranges_of[read]
        targets = switched.targets([(".*", scheme)])
        for path in switched.paths:
            told(progress)(len(found), count, f"{path} as {name}")
            one = targets._replace(weights={path: targets.weights[path]} if scheme else {})
            changed, lost = switched.rounded(params, one, {}), 0.0
            if scheme is not None and bent is not None:
                lost = _second_order(path, params, changed, bent[path])
            elif scheme is not None:
                switches = switched.switched(switched.off(), one, ranges)
                after = (run(changed, switches, *batch) for batch in given)
                lost = _mean([compare(b, a) for b, a in zip(dense, after, strict=True)])
            target = one.weights.get(path)
            found[path, name] = _row(path, name, named_leaves(params)[path], target, lost, costs.get(path, 0))
    told(progress)(count, count, "all options")
    rows = tuple(found[path, name] for path in switched.paths for name in options)
    others = left_out(trace(apply_fn, params, *given[0]), switched.paths)
    return Sensitivity(rows, others, functools.partial(_file_size, apply_fn, params, given[0]))


def _file_size(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], schemes: Mapping[str, Scheme | None]
) -> int:
    """The bytes of a quantized function's file: of noise, which no entropy coding makes smaller than its codes.

    So rounding may choose other codes, and corrections other biases, and the file is no larger.
    """
    rng = np.random.default_rng(0)

    def noise(leaf: Any) -> Any:
        return jnp.asarray(rng.uniform(-1, 1, leaf.shape), leaf.dtype) if is_real(leaf) else leaf

    noisy = jax.tree.map(noise, params)
    rules = {path: scheme and scheme._replace(fit=None) for path, scheme in schemes.items()}
    static = any(scheme and scheme.inputs == "static" for scheme in rules.values())
    ranges = calibrate(apply_fn, noisy, [example], rules, zeros=True, progress=False) if static else None
    new, packed = quantize(apply_fn, noisy, *example, scheme=rules, ranges=ranges)
    with tempfile.TemporaryDirectory() as folder:
        return save(f"{folder}/size.jcz", new, packed)


def _mean(harms: list[Any]) -> float:
    """Over batches; infinite if one of them is no number."""
    if any(np.shape(harm) for harm in harms):
        raise ArgumentError(f"harm must give a number, got an array of shape {np.shape(harms[0])}: take its mean")
    mean = float(np.mean([np.asarray(harm, np.float64) for harm in harms]))
    return math.inf if math.isnan(mean) else mean


def _curvatures(curvature: Params, params: Params, paths: Iterable[str]) -> dict[str, np.ndarray]:
    """The curvature of each weight, whatever container it comes in."""
    given, named = named_leaves(curvature), named_leaves(params)
    for path in paths:
        shape = np.shape(given[path]) if path in given else None
        if shape != np.shape(named[path]):
            raise ArgumentError(
                f"curvature= has {'nothing' if shape is None else f'an array of shape {shape}'} for {path!r} of shape "
                f"{np.shape(named[path])}: give a tree like params (jaxcomp.observe.hessian_diagonal or "
                "fisher_diagonal)"
            )
    own = {path: given[path] for path in paths}
    check_finite(own, "the curvature of ", "by which no harm can be measured")
    return {path: np.asarray(leaf, np.float64) for path, leaf in own.items()}


def _second_order(path: str, params: Params, changed: Params, bent: np.ndarray) -> float:
    before, after = (np.asarray(named_leaves(tree)[path], np.float64) for tree in (params, changed))
    return float(0.5 * np.sum(bent * (before - after) ** 2))


def _costs(apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...]) -> dict[str, int]:
    """Multiply-accumulates by weight."""
    costs: dict[str, int] = {}
    for site in sites(apply_fn, params, *example):
        for path in site.paths:
            costs[path] = costs.get(path, 0) + site.macs
    return costs


def _row(path: str, option: str, leaf: Any, target: Target | None, harm: float, macs: int) -> SensitivityRow:
    whole = 8 * leaf.dtype.itemsize
    if target is None:
        size = leaf.size * whole // 8
        return SensitivityRow(path, leaf.shape, option, None, harm, size, macs * whole * whole, size)
    own = target.scheme._replace(inputs=None)
    codes = jax.eval_shape(
        lambda leaf: encode(dataclasses.replace(target, scheme=own), leaf, {}, {}).in_bytes(own.format.bits), leaf
    )
    size = sum(part.size * part.dtype.itemsize for part in jax.tree.leaves(codes))
    held = codes.parts["codes"].size * codes.parts["codes"].dtype.itemsize
    file = size - held + -(-leaf.size * own.format.bits // 8)
    read = whole if target.scheme.inputs is None else target.scheme.input_format.bits
    return SensitivityRow(path, leaf.shape, option, target.scheme, harm, size, macs * own.format.bits * read, file)
