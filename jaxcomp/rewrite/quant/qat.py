"""Quantization-aware training: the function that will run in integers, with grids that training learns or averages."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxcomp.core.arrays import concrete
from jaxcomp.core.calls import arguments
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import replicated
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.progress import Progress, shows_progress
from jaxcomp.core.types import Grid, Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.quant.gradients import Estimator, Slope, settled
from jaxcomp.quant.granularity import block_of
from jaxcomp.quant.ranges import Fit, grid_between
from jaxcomp.rewrite.quant import qat_grids
from jaxcomp.rewrite.quant.calibrate import calibrate
from jaxcomp.rewrite.quant.encode import encode_to_train
from jaxcomp.rewrite.quant.qat_run import Apart, TrainingRun, scans_apart
from jaxcomp.rewrite.quant.quantize import Quantized, quantize
from jaxcomp.rewrite.quant.report import QuantReport, QuantRow
from jaxcomp.rewrite.quant.scheme import INT8, Schemes
from jaxcomp.rewrite.quant.targets import Targets, find_targets
from jaxcomp.rewrite.rewritten import Born, RewrittenPacked, checked_leaves, shapes_of
from jaxcomp.trace import compat
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import Rounding, check_reads_weights
from jaxcomp.trace.ir import Node, Program, trace


@shows_progress
def qat(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    scheme: Schemes = INT8,
    *,
    weight_grids: Literal["lsq", "pact", "fit"] = "lsq",
    input_grids: Literal["lsq", "pact", "average"] = "lsq",
    start: Fit | None = None,
    fit: Fit | None = None,
    momentum: float = 0.99,
    keep_zeros: bool = False,
    select: Select | None = None,
    progress: Progress = None,
) -> tuple["QuantizedTraining", dict[str, Any]]:
    r"""Rounds weights and layer inputs as integers will, in a function to be trained.

    The new parameters are ``{"params": params, "steps": ..., "ranges": ...}``: what an optimizer trains (step sizes
    with the weights, at the same rate: their gradients are scaled as LSQ has it; without weight decay), and what the
    function itself moves. Weights whose sites read one tensor share its step or range.

    Train with batch norm in one of three ways, each of which ends in the very network that was evaluated: fold it first
    (:func:`fold_batch_norm`; for short runs from a trained network, and where no floating-point scale may be left);
    leave it live, with scales per channel, which take in what folding would (from scratch, at few bits); or live and
    frozen for the last part, by training on the evaluation function (``on``), once its statistics have settled. Give
    here the function whose sites read what they will read in training: ranges begin there.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, in training or in evaluation mode.
      params: parameters alone or a whole tree of variables.
      batches: calibration batches of one shape, as of :func:`calibrate`: where ranges of static inputs begin.
      scheme: as of :func:`quantize`. With ``inputs="dynamic"`` nothing is learned or held for inputs.
      weight_grids: how the grids of weights move: ``"lsq"``: learned (:func:`jaxcomp.quant.learned_quantize`; affine
        ones as LSQ+ has it, but those of inputs that are never negative keep their zero point); ``"pact"``: a learned
        clip (:func:`jaxcomp.quant.clip_quantize`); ``"fit"``: fitted at every call, by the scheme's fit.
        Layers and channels that begin as zeros have nothing to learn from: their step is 0 and stays so, and stands for
        the whole range of the weights at each call.
      input_grids: how the grids of static inputs move: likewise, or ``"average"``: moving averages, by
        :meth:`QuantizedTraining.observed`; frozen by not calling that.
      start: where learned grids of weights begin; None: the scheme's fit, or the least squared error, of 8 bits and
        more the whole range.
      fit: where those of inputs begin, as of :func:`calibrate`; of inputs that are 0 on all batches, at -1 and 1.
      momentum: of moving averages: ``range <- momentum range + (1 - momentum) new``.
      keep_zeros: whether weights that are 0 have no gradients, and so stay 0 under any optimizer that starts here:
        those of a pruned network, ``jaxcomp.posttrain.sparsify(...).params``.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Returns:
      The new function and its parameters. Its ``report`` says what is quantized, and what not and why.

    Raises:
      ArgumentError, RuleError: as :func:`calibrate` and :func:`quantize`; for an option that does not exist.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
      >>> params, x = {"a": jnp.eye(2), "b": jnp.ones((2, 1))}, jnp.array([[-1.0, 2.0], [0.5, 0.3]])
      >>> train_fn, both = qat(layer, params, [x])
      >>> grads = jax.grad(lambda both: train_fn(both, x).sum())(both)
      >>> sorted(grads["steps"]["inputs"]["b"]), grads["params"]["b"].round(1).tolist()
      (['scale'], [[0.5], [2.299999952316284]])
      >>> integers, packed = train_fn.quantized(both, x)
      >>> integers(packed, x).tolist() == train_fn(both, x).tolist()
      True

    Reference: Esser et al., Learned step size quantization, 2020; Bhalgat et al., LSQ+, 2020; Choi et al., PACT, 2018;
    Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018.
    """
    _check(weight_grids, input_grids, momentum)
    params = concrete(params, "qat")
    check_reads_weights(apply_fn, "qat")
    given = checked_batches(apply_fn, params, batches, select)
    program = trace(apply_fn, params, *given[0])
    targets = find_targets(program, scheme, params)
    grids = calibrate(apply_fn, params, given, scheme, fit=fit, zeros=True, progress=progress) if targets.shared else {}
    shapes = shapes_of(params)
    signs = [path for path, target in targets.weights.items() if target.scheme.format.kind == "sign"]
    if keep_zeros and signs:
        raise ArgumentError(
            f"keep_zeros=True needs a code for 0, which 1 bit has not: give {signs[0]!r} 2 bits or more"
        )
    owners = qat_grids.owners(targets)
    method = Method(
        scheme,
        targets,
        owners,
        None if weight_grids == "fit" else weight_grids,
        None if input_grids == "average" else input_grids,
        momentum,
        qat_grids.unsigned(targets, grids),
        keep_zeros,
    )
    held = {path: grid for path, grid in grids.items() if owners[path] == path}
    formats = {path: targets.weights[path].scheme.input_format for path in held}
    learned = {
        "weights": {} if weight_grids == "fit" else qat_grids.of_weights(targets, params, start),
        "inputs": {path: qat_grids.step(grid, path not in method.shifts) for path, grid in held.items()},
    }
    ranges = {path: qat_grids.reach(grid, formats[path]) for path, grid in held.items()}
    averaged = input_grids == "average"
    both = {
        "params": params,
        "steps": {**learned, "inputs": {}} if averaged else learned,
        "ranges": ranges if averaged else {},
    }
    report = quantize(apply_fn, shapes, *given[0], scheme=scheme)[0].report
    return QuantizedTraining(apply_fn, both, method, report, Born(given[0], program, _plan(program, method))), both


class Method(NamedTuple):
    """How a function's weights and inputs are rounded in training.

    Attributes:
      scheme: as asked for.
      targets: the weights that are quantized.
      owners: for each weight with static inputs, that under whose path their step or range is held.
      weights, inputs: which gradient the step size of the grid receives; None: the grid is frozen.
      momentum: of ranges.
      shifts: the zero points, which do not learn, of inputs that data never take below 0.
      keep_zeros: whether weights that are 0 stay so.
    """

    scheme: Schemes
    targets: Targets
    owners: Mapping[str, str]
    weights: Estimator | None
    inputs: Estimator | None
    momentum: float
    shifts: Mapping[str, int]
    keep_zeros: bool = False


class QuantizedTraining(RewrittenPacked[tuple[frozenset[Node], Apart]], Rounding):
    """A function to be trained that rounds as integers would. Made by :func:`qat`.

    Pure, like what it was made of: jit, differentiate, vmap, shard it. Jit it: by a constant scale a compiler may
    divide otherwise than by a parameter, and round a half to the other side.

    Attributes:
      report: the treatment of each weight.
    """

    name = "qat"
    made_by = ("qat", "the integers are what its method quantized(params, *example) gives")

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        both: Mapping[str, Any],
        method: Method,
        report: QuantReport,
        born: Born | None = None,
    ):
        """Takes the function, its parameters as :func:`qat` returns them (or shapes), and how they are rounded."""
        params = shapes_of(dict(both))
        self._method = method
        self.skipped = method.targets.skipped
        decision = {
            "scheme": method.scheme,
            "weights": method.weights,
            "inputs": method.inputs,
            "momentum": method.momentum,
            "shifts": dict(method.shifts),
            "keep_zeros": method.keep_zeros,
            "held": {name: params[name] for name in ("steps", "ranges")},
            "rows": list(report.rows),
        }
        said = f"{len(method.targets.weights)} weights"
        super().__init__(apply_fn, params["params"], {}, report=report, decision=decision, said=said, born=born)
        self._both = params
        self._run_compiled = jax.jit(self._run, static_argnums=(2, 4))
        self._blocks = {
            path: block_of(self._needed[path], target.axes, target.scheme.block)
            for path, target in method.targets.weights.items()
        }

    def plan(self, program: Program) -> tuple[frozenset[Node], Apart]:
        """Finds the sites, and the scans whose iterations have ranges of their own."""
        return _plan(program, self._method)

    def __call__(
        self,
        *args: Any,
        slope: Slope | None = None,
        grids: Mapping[str, Grid] | None = None,
        **named: Any,
    ) -> Any:
        """Calls the function with rounded weights and inputs.

        Args:
          *args: the parameters, ``{"params": ..., "steps": ..., "ranges": ...}``, as made by :func:`qat`, then the
            function's other arguments.
          slope: of the signs of 1-bit weights and inputs, in units of their scale: :func:`jaxcomp.quant.clipped`,
            :func:`jaxcomp.quant.approximate_sign`, or ``jaxcomp.quant.annealed(step / steps)``.
          grids: of weights that a recipe's view has put on a grid of its own: they are not rounded to another.
          **named: arguments under the names that the function itself has for them.
        """
        params, inputs = arguments(self.__wrapped__, args, named)
        return self._rounded(params, inputs, slope, grids, False)[0]

    def observed(
        self,
        *args: Any,
        slope: Slope | None = None,
        grids: Mapping[str, Grid] | None = None,
        **named: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Calls the function, and moves the ranges towards this call's layer inputs: ``params["ranges"]`` of the next.

        ``args``, ``slope``, ``grids``, ``named`` are those of a call. No gradient passes through ranges. Under pmap
        average them over the devices, as batch statistics; in a sharded jit they are those of the whole batch. The
        inputs of sites in a custom derivative move nothing.

        Returns:
          ``(what the function returns, {path: {"low": ..., "high": ...}})``.
        """
        params, inputs = arguments(self.__wrapped__, args, named)
        out, seen = self._rounded(params, inputs, slope, grids, True)
        keep, ranges = self._method.momentum, {}
        for path, old in params["ranges"].items():
            below, above = seen.get(path, (-old["low"], old["high"]))
            new = {"low": -below, "high": above}
            ranges[path] = {end: keep * old[end] + (1 - keep) * new[end].astype(old[end].dtype) for end in new}
        return out, jax.lax.stop_gradient(ranges)

    def on(self, apply_fn: Callable[..., Any]) -> "QuantizedTraining":
        """Puts the same quantizers into another function of the same parameters, such as that of evaluation.

        The inputs of a weight's sites there are rounded on the grid that the weight's path has here.
        """
        return QuantizedTraining(apply_fn, self._both, self._method, self.report)

    def weight_grids(self, params: Params) -> dict[str, Grid]:
        """Returns the grids that learned weights have come to: ``grids`` of :func:`quantize`. Call it under jit."""
        targets = self._method.targets.weights
        return {path: settled(grid, targets[path].scheme.format) for path, grid in self._weights(params).items()}

    def input_grids(self, params: Params) -> dict[str, Grid]:
        """Returns the grids of layer inputs: ``ranges`` of :func:`quantize`. Call it under jit."""
        formats = {path: target.scheme.input_format for path, target in self._method.targets.weights.items()}
        return {path: settled(grid, formats[path]) for path, grid in self._inputs(params).items()}

    def quantized(self, params: Params, *example: Any) -> tuple[Quantized, Params]:
        """Makes the integer function that computes what this one does, and its parameters: :func:`quantize`.

        Args:
          params: as trained, ``{"params": ..., "steps": ..., "ranges": ...}``.
          *example: the other arguments, or their shapes.
        """
        self._leaves(params)
        grids, ranges = jax.jit(lambda tree: (self.weight_grids(tree), self.input_grids(tree)))(dict(params))
        return quantize(
            self.__wrapped__, params["params"], *example, scheme=self._method.scheme, ranges=ranges, grids=grids
        )

    def _rounded(
        self, params: Params, inputs: tuple[Any, ...], slope: Slope | None, grids: Any, watch: bool
    ) -> tuple[Any, dict[str, Any]]:
        """As ``_run``, outside of any transformation compiled whole, unless a slope may be another at each call."""
        self._leaves(params)
        whole = slope is None and not any(map(compat.is_tracer, jax.tree.leaves((params, inputs, grids))))
        run = self._run_compiled if whole else self._run
        return run(dict(params), inputs, slope, None if grids is None else dict(grids), watch)

    def _run(
        self, params: Params, inputs: tuple[Any, ...], slope: Slope | None, grids: Any, watch: bool
    ) -> tuple[Any, dict[str, Any]]:
        own, named = self._method, zip(self._needed, self._leaves(params), strict=True)
        leaves = [replicated(leaf) if path in own.targets.weights else leaf for path, leaf in named]
        program, plan = self._plans(leaves, inputs)
        sites, apart = plan
        learning, ranges, fixed = self._weights(params), self._inputs(params), dict(grids or {})

        def packed(path: str, leaf: Any) -> Any:
            if own.keep_zeros and (path in own.targets.weights or path in own.targets.skipped):
                leaf = jnp.where(leaf == 0, jnp.zeros_like(leaf), leaf)  # with no gradient there
            if path not in own.targets.weights:
                return leaf
            learns, target = None if path in fixed else own.weights, own.targets.weights[path]
            grids = learning | fixed
            return encode_to_train(target, leaf, grids, ranges, weights=learns, inputs=own.inputs, slope=slope)

        run = TrainingRun(sites, slope, own.owners if watch else {}, apart)
        outs = self.run_with(
            run, program, plan, [packed(*each) for each in zip(program.paths, leaves, strict=True)], inputs
        )
        return outs, run.seen

    def check(self, params: Params) -> None:
        """Refuses other parameters than the function was returned with."""
        self._leaves(params)

    def _leaves(self, params: Any) -> list[Any]:
        if not isinstance(params, Mapping) or not {"params", "steps", "ranges"} <= params.keys():
            raise ArgumentError(
                'the function needs the {"params": ..., "steps": ..., "ranges": ...} that qat returned with it, got '
                f"{sorted(params) if isinstance(params, Mapping) else type(params).__name__}"
            )
        return checked_leaves(params["params"], self._needed, "qat")

    def _weights(self, params: Params) -> dict[str, Grid]:
        """The grid of each weight with a learned one, with its gradients."""
        leaves, targets = named_leaves(params["params"]), self._method.targets.weights
        return {
            path: qat_grids.grid_of_weight(step, leaves[path], targets[path], self._blocks[path])
            for path, step in params["steps"]["weights"].items()
        }

    def _inputs(self, params: Params) -> dict[str, Grid]:
        """The grid of what each weight's sites read, with its gradients."""
        own = self._method
        if own.inputs is not None:
            learned = params["steps"]["inputs"].items()
            held = {path: qat_grids.grid(step, shift=own.shifts.get(path, 0)) for path, step in learned}
        else:
            ranges = jax.lax.stop_gradient(params["ranges"]).items()
            formats = {path: own.targets.weights[path].scheme.input_format for path, _ in ranges}
            held = {path: grid_between(each["low"], each["high"], formats[path]) for path, each in ranges}
        return {path: held[owner] for path, owner in own.owners.items() if owner in held}


def _plan(program: Program, method: Method) -> tuple[frozenset[Node], Apart]:
    return scans_apart(program, method.scheme, method.owners)


def restored(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], data: Mapping[str, Any]
) -> tuple[QuantizedTraining, dict[str, Any]]:
    """Makes the function of a decision ``data`` again, and the shapes of its parameters.

    ``apply_fn`` is the original, ``params`` its parameters or their shapes, ``example`` the other arguments.
    """
    program = trace(apply_fn, params, *example)
    targets = find_targets(program, data["scheme"])
    method = Method(
        data["scheme"],
        targets,
        qat_grids.owners(targets),
        data["weights"],
        data["inputs"],
        data["momentum"],
        {path: int(shift) for path, shift in data["shifts"].items()},
        data.get("keep_zeros", False),  # not in files written before
    )
    rows = tuple(QuantRow(path, tuple(shape), *rest) for path, shape, *rest in data["rows"])
    report = QuantReport(rows, left_out(program, {row.path for row in rows}))
    both = {"params": shapes_of(params), **data["held"]}
    return QuantizedTraining(apply_fn, both, method, report, Born(example, program, _plan(program, method))), both


def _check(weight_grids: str, input_grids: str, momentum: float) -> None:
    if weight_grids not in ("lsq", "pact", "fit"):
        raise ArgumentError(f"weight_grids must be 'lsq', 'pact' or 'fit', got {weight_grids!r}")
    if input_grids not in ("lsq", "pact", "average"):
        raise ArgumentError(
            f"input_grids must be 'lsq', 'pact' or 'average', got {input_grids!r}; for dynamic inputs, or none, "
            "give Scheme(inputs=...)"
        )
    if not 0 <= momentum < 1:
        raise ArgumentError(f"momentum must be in [0, 1), got {momentum!r}")
