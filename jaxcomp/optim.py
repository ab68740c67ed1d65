"""The optax adaptor: a compressor for a training loop that one cannot, or would rather not, change."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcomp.core import leaves, paths
from jaxcomp.core.arrays import check_values
from jaxcomp.core.called import check_optimizer, checked
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.learned import learned
from jaxcomp.core.types import Compressor, Note, Params, State

__all__ = ["CompressState", "compress", "describe", "finalize"]


class CompressState(NamedTuple):
    """State of :func:`compress`.

    Attributes:
      step: int32, the number of updates made: the loop passes none to optax, so the adaptor counts.
      params: the parameters behind the view, which the inner optimizer trains.
      compressor: the compressor's state.
      inner: the inner optimizer's state.
    """

    step: jax.Array
    params: Params
    compressor: State
    inner: Any


def compress(optimizer: optax.GradientTransformation, compressor: Compressor) -> optax.GradientTransformationExtraArgs:
    """Trains what lies behind a compressor's view, while the loop holds and evaluates the view.

    The loop's gradients, taken at the view, are pulled back through ``compressor.apply`` to the parameters behind
    it, which the inner optimizer updates; the loop's parameters become the new view. So the loop computes what it
    would with ``compressor.apply`` inside its loss. The update that optax adds is ``view - params`` and rounds:
    zeros come out exact, other values within a unit in the last place of the larger of old and new; :func:`finalize`
    gives them exactly. The compressor itself is given the gradients at the view: they are not 0 where the view is. In a
    chain it comes last: what followed would change the view. So would what mixes parameters (``lookahead``,
    ``optax.contrib.schedule_free``): ``optimizer`` is their place.

    Args:
      optimizer: any optax transformation.
      compressor: any compressor.

    Returns:
      An optax transformation. Its first update turns dense parameters into the view.

    Raises:
      ArgumentError: for what is no optimizer or compressor; (from its init) for a recipe with learned values; (from
        its update) without ``params``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxcomp as jc
      >>> tx = compress(optax.sgd(0.1), jc.prune.magnitude(0.5))
      >>> params = {"w": jnp.array([1.0, -2.0])}
      >>> opt_state = tx.init(params)
      >>> updates, opt_state = tx.update({"w": jnp.array([0.0, -1.0])}, opt_state, params)
      >>> optax.apply_updates(params, updates)["w"].round(2).tolist()
      [0.0, -1.899999976158142]
    """
    checked(compressor, "compress(optimizer, compressor): compressor")
    check_optimizer(optimizer, "compress(optimizer, compressor): optimizer")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> CompressState:
        state = compressor.init(params)
        if learned(state):
            raise ArgumentError(
                f"the recipe learns values ({', '.join(learned(state))}), which a loop that knows parameters alone "
                "cannot train: differentiate with respect to (params, jc.learned(state)), as its help shows"
            )
        behind = jax.tree.map(jnp.copy, params)  # a loop that donates its parameters must not donate these
        return CompressState(jnp.zeros((), jnp.int32), behind, state, optimizer.init(params))

    def update(
        grads: Params, state: CompressState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, CompressState]:
        if params is None:
            raise ArgumentError("jaxcomp.optim.compress needs the parameters: call tx.update(grads, opt_state, params)")
        pulled = _pulled_back(lambda behind: compressor.apply(behind, state.compressor), state.params, grads)
        updates, inner = optimizer.update(pulled, state.inner, state.params, **extra)
        behind = optax.apply_updates(state.params, updates)
        step = state.step + 1
        own = compressor.update(behind, state.compressor, step, grads=grads)
        view = compressor.apply(behind, own)
        change = jax.tree.map(lambda new, old: new ^ old if new.dtype == bool else new - old, view, params)
        return change, CompressState(step, behind, own, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _pulled_back(apply: Callable[[Params], Params], params: Params, grads: Params) -> Params:
    """Gradients at the parameters, of those at their view; those of leaves that have none come back as they are."""
    flat, tree = jax.tree.flatten(params)
    given, slopes = list(flat), tree.flatten_up_to(grads)  # type: ignore[attr-defined]
    places = [i for i, leaf in enumerate(flat) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def view(some: list[Any]) -> list[Any]:
        for i, leaf in zip(places, some, strict=True):
            given[i] = leaf
        seen = jax.tree.leaves(apply(jax.tree.unflatten(tree, given)))
        return [seen[i] for i in places]

    _, pull_back = jax.vjp(view, [flat[i] for i in places])
    (pulled,) = pull_back([slopes[i] for i in places])
    for i, slope in zip(places, pulled, strict=True):
        slopes[i] = slope
    return jax.tree.unflatten(tree, slopes)


def finalize(opt_state: Any, compressor: Compressor, params: Params | None = None) -> Params:
    """Returns the exact view that a loop under :func:`compress` has reached.

    Args:
      opt_state: the loop's optimizer state, which may hold the adaptor's anywhere inside (``optax.chain``,
        ``optax.masked``, ``optax.partition``, ``optax.MultiSteps``, ``nnx.Optimizer``), or as the dictionaries that
        ``nnx.state`` and checkpoints make of it.
      compressor: the one that :func:`compress` was given; :func:`jaxcomp.identity` for the parameters behind the view.
      params: the loop's parameters; needed where the adaptor was given a part of them, and for dictionaries: what the
        adaptor does not hold comes from here.

    Returns:
      The compressed parameters, in the structure of ``params`` if they are given, in arrays of their own: the loop may
      go on and donate its state.

    Raises:
      ArgumentError: if the state holds no adaptor, or more than one; if parameters are missing; if the adaptor's
        compressor was another one.

    Example:
      >>> import jax.numpy as jnp, optax, jaxcomp as jc
      >>> prune, params = jc.prune.magnitude(0.5), {"bias": jnp.ones(2), "kernel": jnp.array([1.0, -2.0])}
      >>> tx = optax.masked(compress(optax.sgd(0.1), prune), {"bias": False, "kernel": True})
      >>> view = finalize(tx.init(params), prune, params)
      >>> view["bias"].tolist(), view["kernel"].tolist()
      ([1.0, 1.0], [0.0, -2.0])
    """
    behind, state, _ = _adaptor(opt_state, params)
    left = [paths.path_string(path) for path, leaf in _flatten(behind, leaves.left_out) if leaves.left_out(leaf)]
    if left and params is None:
        raise ArgumentError(
            f"the optimizer gives jaxcomp.optim.compress a part of the parameters, without {', '.join(left)}: call "
            "finalize(opt_state, recipe, params) with the loop's parameters, of which these are taken"
        )
    view = compressor.apply(behind, _own_state(compressor, behind, state))
    if params is not None:
        named, known = paths.named_leaves(view), paths.named_leaves(params)
        missing = sorted(named.keys() - known.keys())
        if missing:
            raise ArgumentError(f"params must be the loop's, which hold {', '.join(missing)}; got {', '.join(known)}")
        view = paths.replace_leaves(params, named)
    return jax.tree.map(jnp.copy, view)


def describe(opt_state: Any, compressor: Compressor, params: Params | None = None) -> dict[str, Note]:
    """Returns the notes of the view that a loop under :func:`compress` has reached: ``compressor.describe`` there.

    With :func:`finalize` all that storing and reporting need: ``jc.pack.save(path, view, notes=notes)``,
    ``jc.measure.summary(view, notes=notes)``.

    Args:
      opt_state, compressor, params: as of :func:`finalize`; params are needed for dictionaries alone.

    Returns:
      ``{path: note}``, of the parameters that the adaptor was given.

    Raises:
      ArgumentError: as :func:`finalize`.

    Example:
      >>> import jax.numpy as jnp, optax, jaxcomp as jc
      >>> quantize, params = jc.quant.fake(4), {"bias": jnp.ones(2), "kernel": jnp.array([1.0, -2.0])}
      >>> tx = optax.masked(compress(optax.sgd(0.1), quantize), {"bias": False, "kernel": True})
      >>> {path: note.bits for path, note in describe(tx.init(params), quantize).items()}
      {'kernel': 4}
    """
    behind, state, step = _adaptor(opt_state, params)
    check_values({"step": step}, "describe")
    return dict(compressor.describe(behind, _own_state(compressor, behind, state), int(step)))


def _flatten(tree: Any, is_leaf: Callable[[Any], bool]) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]


def _is_adaptor(node: Any) -> bool:
    needed, fields = {"step", "params"}, set(CompressState._fields)  # dictionaries lose what is empty
    return isinstance(node, CompressState) or (isinstance(node, Mapping) and needed <= set(node) <= fields)


def _adaptor(opt_state: Any, params: Params | None) -> tuple[Params, State, Any]:
    """The parameters behind the view, the compressor's state and its step, of the only adaptor in an optimizer's."""
    found = [(jax.tree_util.keystr(path), node) for path, node in _flatten(opt_state, _is_adaptor) if _is_adaptor(node)]
    if len(found) != 1:
        places = " and ".join(place for place, _ in found)
        hint = f", at {places}: finalize one part with its recipe and params, the next with what came back for params"
        none = ": give what tx.init and tx.update return, of an optimizer made with compress(...)"
        raise ArgumentError(
            f"the optimizer state must hold one state of jaxcomp.optim.compress, it holds {len(found)}"
            + (hint if found else none)
        )
    ((_, node),) = found
    if isinstance(node, CompressState):
        return node.params, node.compressor, node.step
    if params is None:
        raise ArgumentError(
            "the optimizer state is made of dictionaries, in which the structure of the parameters is lost: call "
            "finalize(opt_state, recipe, params) with the loop's parameters"
        )
    held = paths.named_leaves(node["params"])
    behind = jax.tree_util.tree_map_with_path(
        lambda path, leaf: held.get(paths.path_string(path), optax.MaskedNode()), params
    )
    return behind, node.get("compressor", ()), jnp.asarray(node["step"])


def _own_state(compressor: Compressor, params: Params, state: State) -> State:
    """A state, however its arrays are wrapped, in the structure that its compressor gives it.

    Raises:
      ArgumentError: if it is the state of another compressor.
    """
    wanted = jax.eval_shape(compressor.init, params)
    needed, held = (
        {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in paths.named_leaves(tree).items()}
        for tree in (wanted, state)
    )
    if needed and needed != held:
        raise ArgumentError(
            "finalize and describe need the recipe that jaxcomp.optim.compress was given; this one's state is another: "
            f"it holds {_listed(needed, held)}; the optimizer's {_listed(held, needed)}"
        )
    own = paths.named_leaves(state)
    return jax.tree.unflatten(jax.tree.structure(wanted), [jnp.asarray(own[path]) for path in needed])


def _listed(held: dict[str, Any], other: dict[str, Any], most: int = 4) -> str:
    own = [
        f"{path!r} {dtype}{list(shape)}" for path, (shape, dtype) in held.items() if other.get(path) != (shape, dtype)
    ]
    return (", ".join(own[:most]) or "nothing else") + (f" and {len(own) - most} more" if len(own) > most else "")
