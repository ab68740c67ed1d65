"""Reduction axes: what each weight's matmuls and convolutions sum over, whatever the layout of its kernel."""

from collections.abc import Callable
from typing import Any

from jaxcomp.trace.ir import trace
from jaxcomp.trace.uses import Use, uses_of


def reduction_axes(apply_fn: Callable[..., Any], params: Any, *example: Any) -> dict[str, tuple[int, ...]]:
    """Finds the axes of each weight that its sites sum over: of a convolution its window's, then the input channels.

    They say what one output is made of: for ``jaxcomp.prune.nm(2, 4, axes=...)``,
    ``jaxcomp.prune.per_output(axes=...)``. In the order in which hardware contracts them, the channels innermost.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: parameters alone or a whole tree of variables; ``ShapeDtypeStruct`` will do.
      *example: the other arguments, or their shapes.

    Returns:
      ``{path: axes}`` of the weights of two axes and more that a site reads as they are, moved about or scaled by a
      number. Left out are those that sites read in different ways, or of which an axis is summed over in part.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"query": jnp.ones((8, 2, 4)), "out": jnp.ones((2, 4, 8)), "w": jnp.ones((3, 8))}
      >>> def layers(p, x):
      ...     return jnp.einsum("bhk,hkd->bd", jnp.einsum("bd,dhk->bhk", x, p["query"]), p["out"]) @ p["w"].T
      >>> reduction_axes(layers, params, jnp.ones((1, 8)))
      {'out': (0, 1), 'query': (0,), 'w': (1,)}
    """
    found = {}
    for path, uses in uses_of(trace(apply_fn, params, *example)).items():
        axes = {_axes(use) for use in uses.sites}
        if len(axes) == 1 and (own := axes.pop()):
            found[path] = own
    return found


def _axes(use: Use) -> tuple[int, ...] | None:
    """The axes of a parameter that a site sums over; None if there is one that it sums over in part."""
    wanted = [*(name for axis in use.window for name in axis), *use.summed]
    axes = [i for i, names in enumerate(use.home) if names and set(names) <= set(wanted)]
    if {name for i in axes for name in use.home[i]} != set(wanted):
        return None
    return tuple(sorted(axes, key=lambda i: wanted.index(use.home[i][0])))
