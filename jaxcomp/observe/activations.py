"""Activations: what flows through each channel on calibration data, read in the traced program."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.channels import Group, check_groups
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import leaves_of
from jaxcomp.core.programs import compiled
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, inputs_of
from jaxcomp.trace.channels.groups import Groups
from jaxcomp.trace.ir import Value
from jaxcomp.trace.observer import Observer, observable
from jaxcomp.trace.sites import weight_of

STATISTICS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "activation": lambda x: jnp.abs(x).astype(jnp.float32),
    "apoz": lambda x: jnp.where(jnp.isfinite(x), (x != 0).astype(jnp.float32), jnp.float32(jnp.nan)),
}
_Views = dict[tuple[Value, int], np.ndarray]
"""For each axis of a value that holds channels of a group, which: ``int [size]``, -1 for none."""


def activations(
    groups: Groups,
    params: Params,
    batches: Iterable[Any],
    statistic: str = "activation",
    select: Select | None = None,
) -> dict[str, np.ndarray]:
    r"""Averages a statistic over the values of each channel, as the matmuls and convolutions that read it are fed them.

    That is behind norm and nonlinearity; a channel that none reads (a dimension of queries and keys) is taken where it
    is made. Several readers count alike, whatever their resolution. The model is not edited.

    Args:
      groups: of :func:`jaxcomp.trace.groups`.
      params: the parameters that they are groups of.
      batches: calibration batches, each the tuple of the function's other arguments (or the single one), of the
        example's shapes.
      statistic: ``"activation"``: \|a\|; ``"apoz"``: 1 where a is not 0.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    Returns:
      ``{group: float64 [size]}``.

    Raises:
      ArgumentError: if there is no batch, or one of other shapes than the example's, or a channel is not finite.

    Example:
      >>> import jaxcomp.trace
      >>> params = {"up": jnp.array([[1.0, -3.0]]), "down": jnp.ones((2, 1))}
      >>> found = jaxcomp.trace.groups(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], params, jnp.ones((2, 1)))
      >>> activations(found, params, [(jnp.array([[2.0], [-2.0]]),)])["up"].tolist()
      [1.0, 3.0]

    Reference: Molchanov et al., Pruning convolutional neural networks, 2017 (the mean); Hu et al., Network trimming,
    2016 (zeros after ReLU).
    """
    check_groups(groups)
    params = concrete(params, "activations")
    views = {group.name: _views(groups, group) for group in groups}
    axes: dict[Value, set[int]] = {}
    for value, axis in (key for own in views.values() for key in own):
        axes.setdefault(value, set()).add(axis)
    probes = {value: _probe(STATISTICS[statistic], own) for value, own in axes.items()}
    observer = Observer(groups.coupling.program, probes)
    run = compiled(lambda leaves: observer(leaves)[1])
    total: Any = None
    for inputs in inputs_of(lambda inputs: _leaves(groups, params, inputs), batches, select):
        sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), run(_leaves(groups, params, inputs)))
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    if total is None:
        raise ArgumentError("batches= gave no batch: give at least one tuple of the function's other arguments")
    means = {
        (value, axis): sums / counts[axis]
        for value, (by_axis, counts) in zip(probes, total, strict=True)
        for axis, sums in by_axis.items()
    }
    found = {group.name: _combined(views[group.name], means, group.size) for group in groups}
    check_finite(found, "on the data the activation of group ")
    return found


def _views(groups: Groups, group: Group) -> _Views:
    """The axes along which a group's channels appear: in its readers' inputs, or else in its makers' results."""
    reading = groups.coupling.readings[group.reading]
    analysis, roots = reading.analysis, reading.roots
    owner = np.full(len(roots), -1)
    for member in group.members:
        labels = reading.labels[member.path, member.axis]
        owner[roots[labels[member.indices]]] = np.arange(group.size)[:, None]
    reachable = observable(groups.coupling.program.frame)
    read: list[Value] = []
    made: list[Value] = []
    for node, cost in analysis.costs.items():
        weight = weight_of(node, analysis.origins)
        read.extend(value for value in node.ins if value is not weight)
        made.extend(node.outs if any((owner[roots[labels]] >= 0).any() for labels in cost.made) else [])
    for values in (read, made):
        views = {
            (value, i): owner[roots[axis.labels]]
            for value in values
            if value in reachable
            for i, axis in enumerate(analysis[value].axes)
            if axis.labels is not None and (owner[roots[axis.labels]] >= 0).any()
        }
        if set(np.concatenate([[-1], *views.values()]).tolist()) >= set(range(group.size)):
            return views
    raise ArgumentError(
        f"no value that can be observed holds all channels of group {group.name!r}: score it by its weights instead"
    )


def _probe(statistic: Callable[[jax.Array], jax.Array], axes: set[int]) -> Any:
    def sums(x: jax.Array) -> Any:
        seen = statistic(x)
        by_axis = {axis: seen.sum(tuple(i for i in range(x.ndim) if i != axis)) for axis in axes}
        return by_axis, {axis: jnp.float32(x.size / x.shape[axis]) for axis in axes}

    return sums


def _combined(views: _Views, means: dict[tuple[Value, int], np.ndarray], size: int) -> np.ndarray:
    """The mean over the indices that a channel owns in an axis, then over the axes that show it."""
    total, seen = np.zeros(size), np.zeros(size)
    for key, owner in views.items():
        own = owner >= 0
        counts = np.bincount(owner[own], minlength=size)
        sums = np.bincount(owner[own], means[key][own], minlength=size)
        total += np.divide(sums, counts, out=np.zeros(size), where=counts > 0)
        seen += counts > 0
    return total / seen


def _leaves(groups: Groups, params: Params, inputs: tuple[Any, ...]) -> list[Any]:
    leaves = [*leaves_of(params, groups.coupling.program.paths), *jax.tree.leaves(inputs)]
    wanted = [value.shape for value in groups.coupling.program.frame.ins]
    given = [np.shape(leaf) for leaf in leaves]
    if wanted != given:
        count = len(groups.coupling.program.paths)
        raise ArgumentError(
            "each of batches= must be a tuple of the function's other arguments, of the shapes of the example that the "
            f"groups were found on: {wanted[count:]}; got {given[count:]}"
        )
    return leaves
