"""Group lasso: a penalty that drives whole channels to zero."""

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.channels import ChannelGroups, check_groups
from jaxcomp.core.leaves import single
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Params
from jaxcomp.core.units import common_unit
from jaxcomp.prune.saliency import Sources, floating, saliency


def group_lasso(groups: ChannelGroups, params: Params) -> Array:
    r"""Sums the norms of all channels, :math:`\sum_c \sqrt{n_c} \lVert w_c \rVert_2`.

    :math:`w_c`: the :math:`n_c` entries that a channel owns in all kernels of its group, those that read it included;
    an entry between two groups counts in both. Add it to the loss, times a small number. Where a channel is 0 its
    subgradient is 0. Kernels alone are penalized: one before batch norm can shrink without effect, but not its readers.

    Args:
      groups: of :func:`jaxcomp.trace.groups`.
      params: a tree like the one that they were found on.

    Returns:
      A float32 scalar, differentiable.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> params = {"up": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "down": jnp.array([[0.0], [2.0]])}
      >>> found = jc.trace.groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 2)))
      >>> round(float(group_lasso(found, params)), 4) == round(3**0.5 * (5 + 2), 4)
      True

    Reference: Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006; Wen et al.,
    Learning structured sparsity in deep neural networks, 2016.
    """
    check_groups(groups)
    named = named_leaves(params)
    voting = floating(groups, named)
    paths = {m.path for group in groups for m in group.members if m.path in voting}
    weights = {path: named[path].astype(single(named[path].dtype)) for path in paths}
    ones = {path: jnp.ones(leaf.shape, jnp.float32) for path, leaf in weights.items()}
    total = jnp.zeros((), jnp.float32)
    for group in groups:
        own = sorted({member.path for member in group.members} & paths)
        common = common_unit(weights[path] for path in own)  # squares of 1e-20 are 0 in float32, of 1e20 infinite
        scaled = {path: weights[path] / common for path in own}
        squares, entries = (saliency(group, voting, "lamp", Sources(of), "joint") for of in (scaled, ones))
        # The root's slope at 0 is infinite; times the 0 of the squares it would be NaN.
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        total += common * jnp.sum(jnp.sqrt(entries) * norms)
    return total
