"""Distributions: how many weights each layer keeps, given how many all of them keep."""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from jaxcomp.core import threshold
from jaxcomp.core.counts import kept_count
from jaxcomp.core.units import host_unit
from jaxcomp.posttrain.sparsify_methods import Costs
from jaxcomp.prune.distributions import fill
from jaxcomp.prune.reconstruct import keep_of_layer


def uniform(shapes: Mapping[str, Sequence[int]], asked: Mapping[str, float]) -> dict[str, int]:
    """Counts the weights that each layer keeps if it is as sparse as asked.

    Args:
      shapes: of the layers, by path.
      asked: the sparsity of each.

    Example:
      >>> uniform({"a": (10, 10), "b": (4,)}, {"a": 0.8, "b": 0.5})
      {'a': 20, 'b': 2}
    """
    return {path: kept_count(asked[path], math.prod(shape)) for path, shape in shapes.items()}


def erk(shapes: Mapping[str, Sequence[int]], asked: Mapping[str, float]) -> dict[str, int]:
    r"""Counts the kept weights of layers at densities proportional to :math:`\sum_i d_i / \prod_i d_i` of a shape d.

    Layers that would have to keep more than they have are kept whole, and the others share the rest.

    Args:
      shapes: of the layers, by path.
      asked: the sparsity of each.

    Example:
      >>> erk({"a": (10, 10), "b": (100, 100)}, {"a": 0.8, "b": 0.8})
      {'a': 100, 'b': 1920}

    Reference: Evci et al., Rigging the lottery, 2020.
    """
    total = sum(uniform(shapes, asked).values())
    sizes = [math.prod(shape) for shape in shapes.values()]
    kept = fill(total, [sum(shape) for shape in shapes.values()], [1] * len(sizes), sizes)
    return dict(zip(shapes, np.asarray(kept).tolist(), strict=True))


def globally(costs: Mapping[str, Costs], keep: int, maximum: float) -> dict[str, int]:
    """Counts the weights that each layer keeps if the largest costs of all together are kept.

    Args:
      costs: of each layer's weights.
      keep: how many are kept in all.
      maximum: the sparsity that no layer exceeds, unless the total cannot be reached else.
    """
    found = {path: np.asarray(own.costs, np.float64) * own.unit for path, own in costs.items()}
    common = host_unit(max((np.max(own, initial=0) for own in found.values()), default=0))
    single = {path: jnp.asarray(own / common, jnp.float32) for path, own in found.items()}
    least = {path: max(1, math.ceil((1 - maximum) * own.size)) for path, own in single.items()}
    raised = [jnp.where(keep_of_layer(own, least[path]), jnp.inf, own) for path, own in single.items()]
    masks = threshold.keep_largest(raised, [keep], [0] * len(raised), score=threshold.itself)
    return {path: int(jnp.sum(mask)) for path, mask in zip(costs, masks, strict=True)}
