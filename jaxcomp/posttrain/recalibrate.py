"""Recalibration: the statistics of batch norms, estimated anew after weights were cut or rounded."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.leaves import is_real, wide
from jaxcomp.core.paths import named_leaves, path_string
from jaxcomp.core.units import host_unit
from jaxcomp.observe.batches import Select, called, inputs_of


def recalibrate(
    update: Callable[[Any, Any], Any], stats: Any, batches: Iterable[Any], *, select: Select | None = None
) -> Any:
    r"""Replaces moving averages by plain ones, in which every batch counts alike.

    A batch norm's training step moves its statistics to :math:`m s + (1 - m) b`, b being the batch's own. Fed with
    s = 0 it gives :math:`(1 - m) b`; fed with two other values it shows m. So the mean of b over the batches is had
    from any model's own training step, whatever its momentum. Batches should be augmented as in training: of a
    published ResNet-20, plain images cost three points.

    Args:
      update: ``(stats, batch) -> new stats``: the model in training mode, with its parameters fixed; it is jitted.
      stats: the statistics, any tree (``variables["batch_stats"]``). Leaves that are no floating-point numbers
        (counters, keys) are left as they are, and so are averages that do not move.
      batches: inputs of ``update``, one after another; all of one shape.
      select: ``update``'s part of each batch, a key or a function of it; None: the whole batch, or, where it cannot
        take that, the first entry of a tuple, list or dict.

    Returns:
      The new statistics, of the structure and types of ``stats``.

    Raises:
      ArgumentError: if there is no batch, or a leaf is no moving average of the batches.

    Example:
      >>> import jax.numpy as jnp
      >>> move = lambda stats, x: {"mean": 0.9 * stats["mean"] + 0.1 * x.mean()}
      >>> recalibrate(move, {"mean": jnp.array(7.0)}, [jnp.array([1.0, 2.0]), jnp.array([5.0])])["mean"].round(2).item()
      3.25
    """
    data = inputs_of(called(update, stats, "update(stats, batch)"), batches, select, single=True)
    update, stats = jax.jit(update), concrete(stats, "recalibrate")
    given = stats
    count, sums, keeps = 0, {}, {}
    for (batch,) in data:
        if not count:
            stats = _widened(update, stats, batch)
        fresh = _moved(update, stats, batch, {})
        if not count:
            keeps = _momenta(update, stats, batch, fresh)
            sums = {path: np.zeros_like(leaf) for path, leaf in fresh.items()}
        sums = {path: total + fresh[path] for path, total in sums.items()}
        count += 1
    if not count:
        raise ArgumentError("recalibrate needs at least one batch, and batches gave none")

    def averaged(path: Any, leaf: Any) -> Any:
        name = path_string(path)
        if keeps.get(name, 1.0) == 1.0:
            return leaf
        return jnp.asarray(sums[name] / count / (1 - keeps[name]), leaf.dtype)

    return jax.tree_util.tree_map_with_path(averaged, given)


def _widened(update: Callable[[Any, Any], Any], stats: Any, batch: Any) -> Any:
    """The statistics in float32 or wider, if the model takes them so and moves them so; else as they are.

    In half precision 1 - m is known to a few percent at best, as are the averages that are divided by it.
    """
    wider = jax.tree.map(lambda leaf: leaf.astype(wide(leaf.dtype)) if is_real(leaf) else leaf, stats)
    try:
        moved = jax.eval_shape(update, wider, batch)
    except (TypeError, ValueError):  # what is strict about types
        return stats
    same = jax.tree.map(lambda a, b: jnp.result_type(a) == b.dtype if is_real(a) else True, wider, moved)
    return wider if jax.tree.all(same) else stats


def _moved(
    update: Callable[[Any, Any], Any], stats: Any, batch: Any, start: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """The values that real leaves move to in one step from those that they are filled with; 0 if none is given."""

    def filled(path: Any, leaf: Any) -> Any:
        return jnp.full_like(leaf, start.get(path_string(path), 0.0)) if is_real(leaf) else leaf

    moved = named_leaves(update(jax.tree_util.tree_map_with_path(filled, stats), batch))
    check_finite(moved, "update's statistic ", "of which there is no mean")
    return {path: np.asarray(leaf, np.float64) for path, leaf in moved.items() if is_real(leaf)}


def _probe(fresh: np.ndarray) -> float:
    """A power of two, at least as large as what the batch moves the average to."""
    return 2.0 * host_unit(max(1.0, float(np.abs(fresh).max(initial=0))))


def _momenta(
    update: Callable[[Any, Any], Any], stats: Any, batch: Any, fresh: dict[str, np.ndarray]
) -> dict[str, float]:
    """How much of its old value each leaf keeps in a step; 1 for those that do not move."""
    probes = {path: _probe(leaf) for path, leaf in fresh.items()}
    once = _moved(update, stats, batch, probes)
    twice = _moved(update, stats, batch, {path: 2 * probe for path, probe in probes.items()})
    keeps = {}
    types = named_leaves(stats)
    for path, probe in probes.items():
        # What is moved is rounded to its own type, and the average is of numbers up to three times the probe.
        near = max(1e-3, 8 * float(jnp.finfo(types[path].dtype).eps))
        slopes = (once[path] - fresh[path]) / probe, (twice[path] - once[path]) / probe
        keep = float(np.median(slopes[0])) if fresh[path].size else 1.0
        even = all(np.allclose(slope, keep, rtol=0, atol=near) for slope in slopes)
        still = keep > 1 - 1e-5 and not fresh[path].any()
        if not even or not (still or -near < keep < 1 - 1e-5):
            raise ArgumentError(
                f"{path}: is no moving average m * old + (1 - m) * new of the batches; give recalibrate the statistics "
                "of batch norms alone, and a model in training mode"
            )
        keeps[path] = 1.0 if still else keep
    return keeps
