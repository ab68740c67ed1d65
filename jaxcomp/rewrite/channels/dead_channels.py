"""Dead channels: those that change no result, because of the weights that are 0, cut out."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Params
from jaxcomp.rewrite.channels.shrink import Shrunk, mask, shrink
from jaxcomp.trace import compat
from jaxcomp.trace.channels.coupling import AxisKey
from jaxcomp.trace.channels.groups import Groups
from jaxcomp.trace.integer_weights import check_reads_weights


def remove_dead(apply_fn: Callable[..., Any], params: Params, *example: Any) -> tuple[Shrunk, Params]:
    """Cuts the channels that change no result, because weights are 0: what unstructured pruning leaves behind.

    A channel is dead if whatever reads it multiplies it by 0, or if it is 0 itself wherever it is read: its filter and
    its bias are 0, or a norm's scale and bias are. Channels that only dead ones read are dead as well. A channel whose
    weights are 0 and whose bias is not is a constant, not dead. Of a group that is dead altogether one channel stays.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: parameters alone or a whole tree of variables: numbers, whose zeros are looked at; of a pruner's
        training, what it shows: ``recipe.apply(params, state)``.
      *example: the other arguments, or their shapes.

    Returns:
      The new function, which computes what ``apply_fn`` did with these parameters, and its parameters, as of
      :func:`shrink`: its ``keep``, given to :func:`shrink` with ``lenient=True``, makes it again.

    Raises:
      ArgumentError: for parameters without values, or with NaN or infinity; as :func:`shrink`.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"up": jnp.ones((4, 3)), "down": jnp.array([[1.0], [0.0], [2.0]])}
      >>> mlp = lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"]
      >>> new, small = remove_dead(mlp, params, jnp.ones((1, 4)))
      >>> small["up"].shape, small["down"].shape, new.keep["up"].tolist()
      ((4, 2), (2, 1), [True, False, True])
    """
    params = concrete(params, "remove_dead")
    check_reads_weights(apply_fn, "remove_dead")
    return shrink(apply_fn, params, *example, keep=_alive, lenient=True)


def _alive(groups: Groups, params: Params) -> dict[str, np.ndarray]:
    """Finds the channels that change a result: ``{group: bool [channels]}`` for the groups with dead ones.

    Args:
      groups: of :func:`jaxcomp.trace.groups` with ``lenient=True``.
      params: the parameters that they are groups of.
    """
    named, members = named_leaves(params), {member.path for group in groups for member in group.members}
    check_finite({path: named[path] for path in members}, why="which times 0 is not 0, so that no channel is dead")
    keep: dict[str, np.ndarray] = {}
    while True:
        readings = groups.coupling.where(_zeros(mask(groups, params, keep)))
        found: dict[str, np.ndarray] = {}
        for group in groups:
            reading, member = readings[group.reading], group.members[0]
            roots = reading.roots[reading.labels[member.path, member.axis][member.indices[:, 0]]]
            own = np.isin(roots, list(reading.frozen)) & keep.get(group.name, np.ones(group.size, bool))
            own[0] |= not own.any()
            if not own.all():
                found[group.name] = own
        if all(name in keep and np.array_equal(own, keep[name]) for name, own in found.items()):
            return found
        keep = found


def _zeros(params: Params) -> Mapping[AxisKey, np.ndarray]:
    """At which indices of each axis of more than one index a parameter is 0 throughout."""
    zeros: dict[AxisKey, np.ndarray] = {}
    for path, leaf in named_leaves(params).items():
        if np.ndim(leaf) and compat.is_number(leaf.dtype):
            nonzero = np.asarray(leaf != 0)
            for axis in range(nonzero.ndim):
                zeros[path, axis] = np.logical_not(nonzero.any(tuple(i for i in range(nonzero.ndim) if i != axis)))
    return zeros
