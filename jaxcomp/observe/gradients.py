"""Curvature: the diagonal of the loss's Hessian, estimated, and how outputs bend to parameters."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.core.calls import check_function, explained
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import is_real, map_real, wide
from jaxcomp.core.paths import in_container
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, called, ending, inputs_of


def hessian_diagonal(loss: Callable[[Params], Any], params: Params, key: jax.Array, samples: int = 16) -> Params:
    r"""Estimates the Hessian's diagonal, as Hutchinson does: :math:`\mathrm{E}[v \odot H v]`, v of random signs.

    Unbiased; exact where the Hessian is diagonal; else an entry's variance is the sum of its row's other squares, over
    ``samples``. Each sample costs about two gradients.

    Args:
      loss: ``params -> scalar``, twice differentiable.
      params: where; any tree.
      key: a random key.
      samples: how many v.

    Returns:
      A tree like ``params``, in float32 or wider; ``optax.MaskedNode`` in place of leaves that are not real.

    Raises:
      ArgumentError: for less than one sample.

    Example:
      >>> loss = lambda p: 3 * p["w"][0] ** 2 + p["w"][1] ** 4
      >>> hessian_diagonal(loss, {"w": jnp.ones(2)}, jax.random.key(0))["w"].tolist()
      [6.0, 12.0]

    Reference: Hutchinson, A stochastic estimator of the trace, 1990; Bekas et al., An estimator for the diagonal of a
    matrix, 2007; Yao et al., AdaHessian, 2021.
    """
    check_function(loss, "loss(params)")
    if samples < 1:
        raise ArgumentError(f"samples must be at least 1, got {samples!r}")
    real, rebuild = _real_leaves(params)

    def add(total: list[Any], key: jax.Array) -> tuple[list[Any], None]:
        keys = jax.random.split(key, max(len(real), 1))[: len(real)]
        signs = [_signs(k, leaf) for k, leaf in zip(keys, real, strict=True)]
        bent = jax.jvp(jax.grad(lambda some: loss(rebuild(some))), (real,), (signs,))[1]
        return [t + (v * b).astype(t.dtype) for t, v, b in zip(total, signs, bent, strict=True)], None

    start = [jnp.zeros_like(leaf, wide(leaf.dtype)) for leaf in real]
    with explained("loss(params)", params, ()):
        total, _ = lax.scan(add, start, jax.random.split(key, samples))
    return _in_place(params, [leaf / samples for leaf in total])


def fisher_diagonal(grads: Iterable[Params]) -> Params:
    """Sums the squares of gradients, one tree a batch: the diagonal of the empirical Fisher information.

    Args:
      grads: gradients of the loss of one batch (at best of one example) each.

    Returns:
      A tree like the first of them, in float32 or wider: half precision would lose small squares and sums of many.

    Raises:
      ArgumentError: if there are none; PathError: if they have other leaves than the first.

    Example:
      >>> fisher_diagonal([{"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 0.0])}])["w"].tolist()
      [10.0, 4.0]

    Reference: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018.
    """
    total = None
    for each in ending(grads, "grads", "trees of gradients"):
        squares = jax.tree.map(_squared, each)
        others = None if total is None else in_container(squares, total, "the gradients of a later batch")
        total = squares if total is None else jax.tree.map(jnp.add, total, others)
    if total is None:
        raise ArgumentError("fisher_diagonal needs at least one tree of gradients, and was given none")
    return total


def _signs(key: jax.Array, leaf: Any) -> jax.Array:
    """Plus or minus 1 like a leaf: as of ``jax.random.rademacher``, whose draws in float64 mode are others."""
    return (2 * jax.random.bernoulli(key, jnp.float32(0.5), leaf.shape).astype(jnp.int32) - 1).astype(leaf.dtype)


def _squared(gradient: Any) -> Any:
    if jnp.iscomplexobj(gradient):
        return jnp.real(gradient) ** 2 + jnp.imag(gradient) ** 2
    if not is_real(gradient):
        return gradient * gradient
    wider = gradient.astype(wide(gradient.dtype))
    return wider * wider


def output_gradients(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    seed: int = 0,
    *,
    select: Select | None = None,
) -> Iterator[Params]:
    r"""Yields gradients of outputs in random directions: of :math:`\sum_i v_i f_i(w)`, v of random signs, a batch.

    For any direction d in the parameters, the expected square of their product is :math:`\|J d\|^2`, what the outputs
    of a batch move by: the Gauss-Newton matrix of the squared error. With the score ``"taylor_squared"``,
    ``combine="joint"``, channels are so ranked by what cutting them does to the outputs. A trained network's loss has
    gradients of few examples, near zero: its outputs have those of all, and need no labels.

    Args:
      apply_fn: ``(params, *inputs) -> outputs``, any tree of arrays; in training mode, batch norm is seen to adapt.
      params: where; any tree, in which leaves that are not real are held fixed. In inference mode, batch statistics in
        it have gradients too and would vote in :func:`importance`: leave them out of what it is given.
      batches: batches, each the tuple of the other arguments (or the single one), at best all of the same shapes.
      seed: of the signs.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    Returns:
      An iterator of trees like ``params``; ``optax.MaskedNode`` in place of leaves that are not real.

    Example:
      >>> some = output_gradients(lambda p, x: p["w"] * x, {"w": jnp.ones(2)}, [(jnp.array([3.0, 4.0]),)])
      >>> abs(next(some)["w"]).tolist()
      [3.0, 4.0]

    Reference: Schraudolph, Fast curvature matrix-vector products, 2002; Molchanov et al., Importance estimation for
    neural network pruning, 2019.
    """
    given = inputs_of(called(apply_fn, params), batches, select)
    keys = (jax.random.fold_in(jax.random.key(seed), number) for number in itertools.count())
    return (
        _in_place(params, _signed_gradient(apply_fn, params, batch, key))
        for batch, key in zip(given, keys, strict=False)
    )


@functools.partial(jax.jit, static_argnums=0)
def _signed_gradient(apply_fn: Callable[..., Any], params: Params, batch: tuple[Any, ...], key: jax.Array) -> list[Any]:
    real, rebuild = _real_leaves(params)

    def signed(some: list[Any]) -> jax.Array:
        outputs = [leaf for leaf in jax.tree.leaves(apply_fn(rebuild(some), *batch)) if is_real(leaf)]
        keys = jax.random.split(key, max(len(outputs), 1))[: len(outputs)]
        signs = [_signs(k, leaf) for k, leaf in zip(keys, outputs, strict=True)]
        sums = [jnp.sum(v * leaf).astype(jnp.float32) for v, leaf in zip(signs, outputs, strict=True)]
        return sum(sums, jnp.zeros((), jnp.float32))

    return jax.grad(signed)(real)


def _in_place(params: Params, real: list[Any]) -> Params:
    """A tree like ``params`` of what :func:`_real_leaves` put in order."""
    found = iter(real)
    return map_real(lambda path, leaf: next(found), params)


def _real_leaves(params: Params) -> tuple[list[Any], Callable[[list[Any]], Params]]:
    """The real leaves in order, and the tree with others in their place."""
    leaves, tree = jax.tree.flatten(params)
    places = [i for i, leaf in enumerate(leaves) if is_real(leaf)]

    def rebuild(some: list[Any]) -> Params:
        full = list(leaves)
        for i, leaf in zip(places, some, strict=True):
            full[i] = leaf
        return jax.tree.unflatten(tree, full)

    return [jnp.asarray(leaves[i]) for i in places], rebuild
