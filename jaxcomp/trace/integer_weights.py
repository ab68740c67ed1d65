"""Weights that are held as integers: what can be cut and ranked of them, and what is refused."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import path_string
from jaxcomp.core.rules import assign, rules_of
from jaxcomp.core.types import Params
from jaxcomp.trace.channels.coupling import AxisKey
from jaxcomp.trace.channels.groups import Groups
from jaxcomp.trace.packed.codes import Codes


def _quantized_leaves(params: Params) -> dict[str, Codes]:
    """Returns the quantized leaves of a tree, by the paths of the parameters that they stand for."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda node: isinstance(node, Codes))
    return {path_string(path): node for path, node in nodes if isinstance(node, Codes)}


class Rounding:
    """A function that rounds weights as integers will, of parameters that stay floating-point, to be trained.

    Attributes:
      made_by: the rewrite that made it, and how the integers are had of it.
      skipped: the weights that its sites read as they are.
    """

    made_by: ClassVar[tuple[str, str]]
    skipped: Collection[str]


def check_unquantized(apply_fn: Any, params: Params, rewrite: str) -> None:
    """Refuses parameters that hold codes, and functions that round all of theirs.

    Args:
      apply_fn: the function.
      params: its parameters.
      rewrite: its name, for the error.

    Raises:
      ArgumentError: with the first path, and what to do.
    """
    for path in _quantized_leaves(params):
        raise ArgumentError(
            f"{path!r} is held as integer codes, and {rewrite} works on numbers: call {rewrite} before quantize (or on "
            "jaxcomp.rewrite.densify(params), with the function that was quantized)"
        )
    check_reads_weights(apply_fn, rewrite)


def check_reads_weights(apply_fn: Any, rewrite: str) -> None:
    """Refuses an ``apply_fn`` that rounds all of its weights: no site reads one, as the ``rewrite`` needs.

    Raises:
      ArgumentError: with what to call instead.
    """
    rounding = _rounding(apply_fn)
    if rounding is not None and not rounding.skipped:
        maker, ship = rounding.made_by
        raise ArgumentError(
            f"this is the function that {maker} returned: it rounds every weight itself, and {rewrite} finds none to "
            f"work on. Give {rewrite} the function and parameters that {maker} was given; {ship}"
        )


def check_not_yet_quantized(params: Params, scheme: Any, weights: Collection[str]) -> None:
    """Refuses rules of schemes that match what is quantized already, and no other weight.

    Args:
      params: the parameters.
      scheme: one for all, rules, or by path.
      weights: what sites read that is not quantized.

    Raises:
      ArgumentError: with the first path, and what to do.
    """
    found = list(_quantized_leaves(params))
    rules = rules_of(scheme)
    owners = assign([pattern for pattern, _ in rules], [*weights, *found]) if found else {}
    for path in found:
        rule = owners.get(path)
        if rule is None or rules[rule][1] is None or any(owners.get(other) == rule for other in weights):
            continue
        raise ArgumentError(
            f"{path!r} is held as integer codes already, and {rules[rule][0]!r} matches no weight that is not: "
            "quantize the function and parameters that quantize was given (or jaxcomp.rewrite.densify(params)), or "
            "give rules for the weights that are left"
        )


def _rounding(function: Any) -> Rounding | None:
    """The function of this kind that a function is, be it jitted or with arguments bound."""
    for _ in range(16):  # wrappers of wrappers; a function may name itself
        if isinstance(function, Rounding):
            return function
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        function = getattr(function, "__self__", None) if inner is None else inner
        if function is None:
            break
    return None


def check_cuts(groups: Groups, params: Params, masks: Mapping[AxisKey, np.ndarray]) -> None:
    """Refuses to cut what belongs to codes and not the codes, or to cut nothing because of them.

    Args:
      groups: of the function of quantized parameters.
      params: the parameters.
      masks: ``{(path, axis): bool [size]}``, what is kept of the axes of which something is cut.

    Raises:
      ArgumentError: with the path, the reason, and what to do.
    """
    advice = "shrink the function of floating-point weights, then quantize it"
    found, cut = _quantized_leaves(params), {path for path, _ in masks}
    for path in found:
        parts = {name for name in cut if name.rpartition("/")[0] == path}
        if _changes_sums(path, found[path], masks):
            raise ArgumentError(
                f"no inputs of {path!r} whose codes are not 0 can be cut, as sums of codes are stored: {advice}"
            )
        if parts and f"{path}/codes" not in parts:
            why = "share bytes" if found[path].fields is not None else "stay whole"
            raise ArgumentError(f"no channels of {path!r} can be cut, as its codes {why}: {advice}")
    owned = {f"{path}/codes" for path in found}
    if found and not cut and not any(member.path in owned for group in groups for member in group.members):
        path = next(iter(found))
        frozen = (g.frozen for g in groups.frozen if any(m.path in owned for m in g.members))
        because = next((f": {reason}" for reason in frozen if reason is not None), "")
        raise ArgumentError(f"no channels can be cut of {path!r} and other weights stored as codes{because}; {advice}")


def _changes_sums(path: str, leaf: Codes, masks: Mapping[AxisKey, np.ndarray]) -> bool:
    """Whether codes other than 0 are cut out of sums that a leaf holds."""
    if "sums" not in leaf.parts or isinstance(leaf.parts["codes"], jax.ShapeDtypeStruct):
        return False
    names = dict(zip(leaf.parts, leaf.names, strict=True))
    for axis, name in enumerate(names["codes"]):
        kept = masks.get((f"{path}/codes", axis))
        if kept is None or name in names["sums"]:
            continue
        if bool(jnp.any(jnp.take(leaf.parts["codes"], np.flatnonzero(~kept), axis=axis) != 0)):
            return True
    return False


def voting(groups: Groups, named: Mapping[str, Any], read: Mapping[str, Any]) -> frozenset[str]:
    """Finds the weights whose sizes rank channels.

    Args:
      groups: of the function.
      named: the parameters, by path.
      read: the same as their sites read them: :func:`jaxcomp.rewrite.folding.effective.as_read`.

    Returns:
      Those of ``groups.weights`` that vote: of integer weights the values that sites make of them, not their scales,
      and no masks.

    Raises:
      ArgumentError: for integers of which no site reads such values.
    """
    members = {member.path for group in groups for member in group.members}
    integers = {path for path in members & groups.weights if not jnp.issubdtype(named[path].dtype, jnp.inexact)}
    voters = set(groups.weights)
    for path in integers:
        if jnp.issubdtype(read[path].dtype, jnp.inexact):
            voters -= {own for own in _beside(groups, path) if np.shape(named[own]) != np.shape(named[path])}
    for path in sorted(integers & voters):
        if jnp.issubdtype(read[path].dtype, jnp.inexact):
            continue
        if not _is_mask(named[path]):
            raise ArgumentError(
                f"{path!r} holds integers of type {named[path].dtype}, which rank no channels without their scale: "
                "give choose a function (groups, params) -> {group: scores}, or choose before quantizing"
            )
        voters.discard(path)
    return frozenset(voters)


def _beside(groups: Groups, path: str) -> set[str]:
    """The parameters of which sites' weights are computed together with one."""
    origins = groups.coupling.analysis.origins
    operands = [origins[value].paths for node in groups.coupling.analysis.costs for value in node.ins]
    return set[str]().union(*(paths for paths in operands if path in paths))


def _is_mask(leaf: Any) -> bool:
    return leaf.dtype == bool or bool(np.isin(np.asarray(leaf), (0, 1)).all())
