"""Shrink: the same function with fewer channels."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.channels import check_groups
from jaxcomp.core.errors import ArgumentError, PathError
from jaxcomp.core.paths import named_leaves, path_string
from jaxcomp.core.types import Params
from jaxcomp.rewrite.channels.report import report_of
from jaxcomp.rewrite.rewritten import Born, Rewritten, shapes_of
from jaxcomp.trace.channels.coupling import AxisKey, Coupling, couple
from jaxcomp.trace.channels.emitter import Emitter, pick
from jaxcomp.trace.channels.groups import Groups
from jaxcomp.trace.integer_weights import check_cuts, check_reads_weights
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Program, trace

Keep = Mapping[str, Any] | Callable[[Groups, Params], Mapping[str, Any]]
"""``{group: bool [size]}``, or a function that gives it for the groups and the parameters."""


def shrink(
    apply_fn: Callable[..., Any], params: Params, *example: Any, keep: Keep, lenient: bool = False
) -> tuple["Shrunk", Params]:
    """Cuts channels out of a function and its parameters.

    The parity law: ``new_fn(new_params, x) = apply_fn(masked, x)``, ``masked`` being :func:`mask` of the same channels.
    Literals of the function stay (a mean over 768 channels divides by 768 when 512 are left), so the new function is
    not a smaller instance of the same module; it is pure, and can be jitted, differentiated, vmapped, sharded, exported
    (for a symbolic batch size, too) and shrunk again.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function. A result that ends in a parameter's path and has its
        shape (``batch_stats`` in train mode) comes back small.
      params: parameters alone or a whole tree of variables; ``ShapeDtypeStruct`` will do.
      *example: the other arguments, or their shapes.
      keep: for each group to cut, by name or by a member's path, which channels stay: ``bool [size]``; or a function of
        the groups and the parameters that gives this (:func:`choose`).
      lenient: allow groups that need the lenient mask.

    Returns:
      The new function, a :class:`Rewritten` of the same arguments whose ``report`` prints as a table, and its
      parameters. Its method :meth:`Shrunk.cut` shrinks an optimizer's state likewise; its attribute ``keep`` is the
      decision. :func:`jaxcomp.rewrite.save` stores both, :func:`jaxcomp.rewrite.load` makes the function again.

    Raises:
      ArgumentError: for a mask that does not fit, a group that cannot be cut, a function that reads no parameter; from
        the new function: parameters of other shapes, or inputs for which other channels go together.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 2))}
      >>> mlp = lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"]
      >>> small_fn, small = shrink(mlp, params, jnp.ones((1, 4)), keep={"up": np.arange(8) < 6})
      >>> small["up"].shape, small["down"].shape, small_fn(small, jnp.ones((3, 4))).shape
      ((4, 6), (6, 2), (3, 2))
    """
    params = as_arrays(params)
    check_reads_weights(apply_fn, "shrink")
    program = trace(apply_fn, params, *example)
    found = Groups(couple(program, lenient))
    chosen = decided(keep, found, params)
    masks = found.masks(chosen)
    if callable(keep) or masks:
        check_cuts(found, params, masks)
    born = Born(example, program, Plan(found.coupling, Emitter(found.coupling.cut(masks))))
    new = Shrunk(apply_fn, params, _by_name(found, chosen), masks, found, born)
    return new, cut(params, masks)


def decided(keep: Keep, groups: Groups, params: Params) -> Mapping[str, Any]:
    """Returns which channels stay, as given or as chosen.

    Args:
      keep: ``{group: bool [size]}``, or a function from groups and parameters to it.
      groups: of the function.
      params: the parameters that they are groups of.

    Raises:
      ArgumentError: for what is neither a mapping nor such a function.
    """
    chosen = keep(groups, params) if callable(keep) else keep
    if isinstance(chosen, Mapping):
        return chosen
    raise ArgumentError(
        f"keep must be {{group: bool [size]}}, True = kept, or a choice, got {chosen!r:.80}"
        + (": keep=jc.rewrite.choose(0.5) cuts half of the channels" if chosen is keep else " of a function")
    )


def _by_name(found: Groups, chosen: Mapping[str, Any]) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    for given, kept in chosen.items():
        name = found[given].name
        named[name] = np.array(kept) & named.get(name, np.True_)
    return named


def mask(groups: Groups, params: Params, keep: Keep) -> Params:
    """Zeroes the channels that :func:`shrink` cuts: parameters of full size with which the function computes the same.

    A strict mask zeroes whatever produces a channel (kernels' outputs, biases, norms' scales and biases, statistics); a
    lenient one (of groups found with ``lenient=True``) also the weights that read it.

    Args:
      groups: of :func:`jaxcomp.trace.groups`.
      params: the parameters that they are groups of.
      keep: as for :func:`shrink`.

    Returns:
      The parameters, some of them 0.

    Raises:
      ArgumentError: for a mask that does not fit, or a group that cannot be cut.

    Example:
      >>> import jax.numpy as jnp, jaxcomp.trace
      >>> params = {"up": jnp.ones((1, 2)), "down": jnp.ones((2, 1))}
      >>> found = jaxcomp.trace.groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 1)))
      >>> masked = mask(found, params, {"up": np.array([True, False])})
      >>> masked["up"].tolist(), masked["down"].tolist()
      ([[1.0, 0.0]], [[1.0], [1.0]])
    """
    params = as_arrays(params)
    check_groups(groups)
    masks = groups.masks(decided(keep, groups, params))
    missing = sorted({path for path, _ in masks} - named_leaves(params).keys())
    if missing:
        raise PathError(f"the parameters have no leaf {missing[0]!r}, which is masked: give those of the groups")
    zeroed = {(m.path, m.axis) for group in groups for m in group.members if groups.zeroes(m)}
    return _masked(params, {key: kept for key, kept in masks.items() if key in zeroed})


def _masked(params: Params, masks: Mapping[AxisKey, np.ndarray]) -> Params:
    def one(path: Any, leaf: Any) -> Any:
        for axis, kept in _own(masks, path).items():
            shape = [-1 if i == axis else 1 for i in range(leaf.ndim)]
            leaf = jnp.where(jnp.asarray(kept).reshape(shape), leaf, jnp.zeros((), leaf.dtype))
        return leaf

    return jax.tree_util.tree_map_with_path(one, params)


def _own(masks: Mapping[AxisKey, np.ndarray], path: Any) -> dict[int, np.ndarray]:
    name = path_string(path)
    return {axis: kept for (owner, axis), kept in masks.items() if owner == name}


def cut(params: Params, masks: Mapping[AxisKey, np.ndarray]) -> Params:
    """Cuts a tree of parameters (or gradients, or an optimizer's moments) to what masks keep.

    Args:
      params: arrays or ``ShapeDtypeStruct``.
      masks: ``{(path, axis): bool [size of the axis]}``, from :meth:`Groups.masks`.

    Returns:
      The tree of smaller leaves.

    Example:
      >>> small = cut({"w": np.arange(6).reshape(2, 3)}, {("w", 1): np.array([True, False, True])})
      >>> small["w"].tolist()
      [[0, 2], [3, 5]]
    """

    def one(path: Any, leaf: Any) -> Any:
        own = _own(masks, path)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            shape = tuple(int(own[i].sum()) if i in own else n for i, n in enumerate(leaf.shape))
            return jax.ShapeDtypeStruct(shape, leaf.dtype)
        for axis, kept in own.items():
            leaf = pick(leaf, axis, np.flatnonzero(kept))
        return leaf

    return jax.tree_util.tree_map_with_path(one, params)


class Plan(NamedTuple):
    """The coupling of a program, and what runs it at the sizes that are kept."""

    coupling: Coupling
    emitter: Emitter

    def run(self, leaves: list[Any]) -> list[Any]:
        """Returns the results for the leaves of all arguments."""
        return self.fitted(self.emitter.body(self.coupling.program.frame, leaves))

    def fitted(self, outs: list[Any]) -> list[Any]:
        """Cuts new states among the results to the size of the parameters that they update."""
        program, params = self.coupling.program, self.coupling.program.parameters()
        for i, (owner, value) in enumerate(zip(self.coupling.states, program.frame.outs, strict=True)):
            if owner is not None:
                outs[i] = self.emitter.fit(outs[i], value, self.emitter.keeps(params[owner]))
        return outs


class Shrunk(Rewritten[Plan]):
    """A function that was shrunk. Made by :func:`shrink`.

    Attributes:
      keep: ``{group: bool [size]}``, the decision under the groups' own names.
      masks: ``{(path, axis): bool [size]}``, what is kept of each parameter's axis, for those that were cut.
      report: the treatment of each group, and why parameters are in none; prints as a table.
    """

    name = "shrink"

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: Params,
        keep: Mapping[str, np.ndarray],
        masks: Mapping[AxisKey, np.ndarray],
        groups: Groups,
        born: Born,
    ):
        """Takes what :func:`shrink` decided."""
        self.keep, self.masks = dict(keep), dict(masks)
        self._lenient, self._readers = groups.coupling.analysis.lenient, groups.coupling.readers
        left, size = (sum(count(kept) for kept in keep.values()) for count in (np.sum, np.size))
        super().__init__(
            apply_fn,
            params,
            cut(shapes_of(params), masks),
            report=report_of(groups, keep),
            decision={"keep": self.keep, "lenient": self._lenient},
            said=f"{left} of {size} channels of {len(keep)} groups" if keep else "nothing",
            born=born,
        )

    def plan(self, program: Program) -> Plan:
        """Plans a program: what is coupled in it, cut by the masks."""
        coupling = couple(program, self._lenient, self._readers)
        return Plan(coupling, Emitter(coupling.cut(self.masks)))

    def interpreter(self, program: Program, plan: Plan) -> Interpreter:
        """Returns the interpreter that runs ``program`` by its ``plan``, at the sizes that are kept."""
        return plan.emitter

    def results(self, program: Program, plan: Plan, run: Any, outs: list[Any]) -> list[Any]:
        """Cuts new states among the results ``outs`` by the ``plan``; ``program`` and ``run`` are not read."""
        return plan.fitted(outs)

    def cut(self, tree: Any) -> Any:
        """Cuts whatever is laid out like the parameters: gradients, an optimizer's moments, a compressor's masks.

        Args:
          tree: any tree; a leaf whose path ends in a parameter's path and that has its shape is cut as it was.

        Returns:
          The tree with smaller leaves, the other leaves as they were.

        Example:
          >>> import jax.numpy as jnp, optax
          >>> params = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 2))}
          >>> mlp = lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"]
          >>> new, small = shrink(mlp, params, jnp.ones((1, 4)), keep={"up": np.arange(8) < 6})
          >>> new.cut(optax.sgd(0.1, momentum=0.9).init(params))[0].trace["up"].shape
          (4, 6)
        """
        full = named_leaves(self.full)
        masks: dict[AxisKey, np.ndarray] = {}
        for path, leaf in named_leaves(tree).items():
            keys = path.split("/")
            ends = ("/".join(keys[i:]) for i in range(len(keys)))
            owner = next((end for end in ends if end in full), None)
            if owner is not None and full[owner].shape == np.shape(leaf):
                masks |= {(path, axis): kept for (name, axis), kept in self.masks.items() if name == owner}
        return cut(tree, masks)
