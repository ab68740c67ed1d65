"""Targets: what schemes quantize in a program, and which sites share a range."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.rules import by_rule
from jaxcomp.core.types import Grid, Params
from jaxcomp.quant.formats import check_integer_form
from jaxcomp.quant.granularity import check_block
from jaxcomp.rewrite.quant.scheme import Scheme, Schemes
from jaxcomp.trace.affine import MOVES
from jaxcomp.trace.integer_weights import check_not_yet_quantized
from jaxcomp.trace.ir import Node, Program, Value, all_nodes
from jaxcomp.trace.uses import Use, Uses, uses_of


@dataclass(frozen=True)
class Target:
    """A weight to quantize.

    Attributes:
      path: its own.
      scheme: how.
      axes: of the weight with scales of their own.
      features: axes that no site sums over.
      stack: axes along which, layer by layer, static inputs have a range of their own.
    """

    path: str
    scheme: Scheme
    axes: tuple[int, ...]
    features: tuple[int, ...]
    stack: tuple[int, ...]


class Shared(NamedTuple):
    """Weights whose sites read one value, or several values of one weight: they share a range.

    Attributes:
      paths: the weights.
      values: the inputs of their sites, each as far back as it is only moved about.
      scans: whose iterations have ranges of their own, the outermost first.
    """

    paths: tuple[str, ...]
    values: tuple[Value, ...]
    scans: tuple[Node, ...]


class Targets(NamedTuple):
    """The weights that are quantized in a program.

    Attributes:
      weights: by path.
      shared: the groups of those with static inputs.
      skipped: why other weights that sites read are not.
    """

    weights: Mapping[str, Target]
    shared: tuple[Shared, ...]
    skipped: Mapping[str, str]


def find_targets(program: Program, scheme: Schemes, params: Params = None) -> Targets:
    """Finds what a scheme, or ordered rules of schemes, quantizes in a program.

    Args:
      program: a traced function.
      scheme: as of :func:`jaxcomp.rewrite.quantize`.
      params: the function's parameters, of which those that are quantized are looked at; None, shapes and tracers: not.

    Raises:
      ArgumentError: for a scheme out of range, a weight that is not finite, and rules for what is quantized already;
        RuleError: for a rule that applies to no weight.
    """
    uses = {path: own for path, own in uses_of(program).items() if own.sites}
    check_not_yet_quantized(params, scheme, uses.keys())
    chosen = by_rule(scheme, list(uses))
    schemes = {path: each for path, each in chosen.items() if each is not None}
    named = named_leaves(params)
    for path, each in schemes.items():
        _check(path, each)
        check_finite({path: named.get(path)}, why="which no grid can hold")
    shared = _shared(program, {path: uses[path] for path, each in schemes.items() if each.inputs == "static"})
    stacks = {path: group.scans for group in shared for path in group.paths}
    weights = {
        path: Target(
            path,
            each,
            _axes(uses[path], each),
            _axes(uses[path], each._replace(axis="channel")),
            _stack(uses[path], stacks.get(path, ())),
        )
        for path, each in schemes.items()
    }
    return Targets(weights, shared, dict.fromkeys(uses.keys() - weights.keys(), "not asked for"))


def reached(targets: Targets, ranges: Mapping[str, Grid] | None) -> Targets:
    """Drops the weights of ``targets`` that have no range in ``ranges`` because their inputs are 0 on the data."""
    skipped = getattr(ranges, "skipped", {})
    gone = {path: why for path, why in skipped.items() if _is_static(targets, path) or path in targets.skipped}
    weights = {path: target for path, target in targets.weights.items() if path not in gone}
    shared = [group._replace(paths=tuple(path for path in group.paths if path in weights)) for group in targets.shared]
    return Targets(weights, tuple(group for group in shared if group.paths), {**targets.skipped, **gone})


def _is_static(targets: Targets, path: str) -> bool:
    return path in targets.weights and targets.weights[path].scheme.inputs == "static"


def schemes_without(scheme: Schemes, program: Program, skipped: Mapping[str, str]) -> Schemes:
    """Leaves weights as they are: the scheme itself, or one for each path if some are skipped.

    Args:
      scheme: as of :func:`jaxcomp.rewrite.quantize`.
      program: a traced function.
      skipped: ``{path: reason}``.
    """
    if not skipped:
        return scheme
    chosen = by_rule(scheme, [path for path, own in uses_of(program).items() if own.sites])
    return {path: None if path in skipped else each for path, each in chosen.items()}


def _check(path: str, scheme: Any) -> None:
    if not isinstance(scheme, Scheme):
        raise ArgumentError(
            f"scheme must be a jaxcomp.rewrite.Scheme, rules of them or a mapping, got {scheme!r} for {path!r}: "
            f"Scheme(bits={scheme if isinstance(scheme, int | str) else 8!r})"
        )
    try:
        format = scheme.format
        check_block(scheme.block)
        if scheme.inputs is not None:
            check_integer_form(scheme.input_format)
            check_integer_form(format)
    except ArgumentError as error:
        raise ArgumentError(f"{path!r}: {error}") from None
    if scheme.inputs is not None and scheme.block is not None:
        raise ArgumentError(
            f"{path!r}: sites cannot sum up integers whose scales vary from block to block: use block=None, or "
            "inputs=None"
        )
    if scheme.inputs not in (None, "static", "dynamic"):
        raise ArgumentError(f"inputs must be 'static', 'dynamic' or None, got {scheme.inputs!r} for {path!r}")


def _axes(uses: Uses, scheme: Scheme) -> tuple[int, ...]:
    home = uses.sites[0].home
    if scheme.axis == "channel":
        passed = [{*use.free, *use.stack} for use in uses.sites]
        return tuple(i for i, names in enumerate(home) if names and all(set(names) <= each for each in passed))
    if scheme.axis is None:
        return ()
    axes = (scheme.axis,) if isinstance(scheme.axis, int) else tuple(scheme.axis)
    return tuple(sorted(i % len(home) if -len(home) <= i < len(home) else i for i in axes))


def _stack(uses: Uses, scans: Collection[Node]) -> tuple[int, ...]:
    use = uses.sites[0]
    return tuple(use.home.index((name,)) for name, scan in zip(use.stack, use.scans, strict=False) if scan in scans)


def _shared(program: Program, uses: Mapping[str, Uses]) -> tuple[Shared, ...]:
    makers = {value: node for node in all_nodes(program.frame) for value in node.outs}
    groups: list[tuple[set[str], set[Value], list[Use]]] = []
    for path, own in uses.items():
        paths, values, sites = {path}, {_root(use.node.ins[1 - use.side], makers) for use in own.sites}, [*own.sites]
        for group in [group for group in groups if group[1] & values]:
            groups.remove(group)
            paths, values, sites = paths | group[0], values | group[1], sites + group[2]
        groups.append((paths, values, sites))
    order = {value: i for i, value in enumerate(dict.fromkeys([*program.frame.ins, *makers]))}
    return tuple(
        Shared(tuple(p for p in uses if p in paths), tuple(sorted(values, key=lambda v: order.get(v, -1))), _scans(own))
        for paths, values, own in groups
    )


def _root(value: Value, makers: Mapping[Value, Node]) -> Value:
    while value in makers and makers[value].op in MOVES:
        (value,) = makers[value].ins
    return value


def _scans(uses: list[Use]) -> tuple[Node, ...]:
    """The scans that slice every one of the weights along an axis of its own."""

    def own(use: Use) -> list[Node]:
        return [scan for name, scan in zip(use.stack, use.scans, strict=False) if (name,) in use.home]

    return tuple(scan for scan in own(uses[0]) if all(scan in own(use) for use in uses))
