"""Rewritten functions in files: their parameters, and the decisions by which another process makes them again."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError, ArtifactError, JaxcompError
from jaxcomp.core.types import Note, Params
from jaxcomp.pack import artifact, container, stored
from jaxcomp.rewrite.channels.shrink import shrink
from jaxcomp.rewrite.folding.batch_norm import fold_batch_norm
from jaxcomp.rewrite.folding.weights import fold_weights
from jaxcomp.rewrite.lowrank import factorize
from jaxcomp.rewrite.plain import from_json, to_json
from jaxcomp.rewrite.quant import qat, quantize
from jaxcomp.rewrite.rewritten import Decision, Rewritten, rewritten, shapes_of

Path = str | os.PathLike[str]
Restorer = Callable[[Callable[..., Any], Params, tuple[Any, ...], Mapping[str, Any]], tuple[Rewritten, Params]]


def _folded(fold: Callable[..., tuple[Rewritten, Params]]) -> Restorer:
    def again(
        apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], data: Mapping[str, Any]
    ) -> tuple[Rewritten, Params]:
        new, small = fold(apply_fn, params, *example)
        found, wanted = ({path: rest for path, *rest in each["folds"]} for each in (new.decision.data, data))
        if found != wanted:
            path = next(path for path in sorted({*found, *wanted}) if found.get(path) != wanted.get(path))
            raise ArtifactError(
                f"{fold.__name__} finds other things to fold than it did when this was stored: into {path!r} it folds "
                f"{found.get(path, 'nothing')}, and it was {wanted.get(path, 'nothing')}: give the function that was "
                "rewritten then, in the same mode"
            )
        return new, small

    return again


RESTORERS: dict[str, Restorer] = {
    "shrink": lambda apply_fn, params, example, data: shrink(apply_fn, params, *example, **data),
    "fold_batch_norm": _folded(fold_batch_norm),
    "fold_weights": _folded(fold_weights),
    "factorize": factorize.restored,
    "quantize": quantize.restored,
    "fake_quantize": lambda apply_fn, params, example, data: quantize.fake_quantize(apply_fn, params, *example, **data),
    "qat": qat.restored,
}
"""Functions that make a rewritten function again: from function, shapes, example and decision, to it and new shapes."""


def restore(
    apply_fn: Callable[..., Any], params: Params, *example: Any, decisions: Iterable[Decision]
) -> tuple[Rewritten, Params]:
    """Makes a rewritten function again, from shapes alone.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: the function that the first of the rewrites was given.
      params: its parameters, or their shapes: ``jax.eval_shape(model.init, ...)``.
      *example: the other arguments, or their shapes.
      decisions: :attr:`Rewritten.decisions`.

    Returns:
      The function, and the shapes of its parameters in the containers of ``params``, packed leaves among them.

    Raises:
      ArgumentError: for no decision, or one of a rewrite that does not exist; as the rewrites.
      ArtifactError: if the function is another than was rewritten.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> params = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 2))}
      >>> mlp = lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"]
      >>> small_fn, small = shrink(mlp, params, jnp.ones((1, 4)), keep={"up": np.arange(8) < 6})
      >>> again, shapes = restore(mlp, params, jnp.ones((1, 4)), decisions=small_fn.decisions)
      >>> again, shapes["up"].shape, again(small, jnp.ones((3, 4))).shape
      (<<lambda> -> shrink(6 of 8 channels of 1 groups)>, (4, 6), (3, 2))
    """
    new: Any = None
    function, shapes = apply_fn, shapes_of(as_arrays(params))
    for name, data, _ in decisions:
        if name not in RESTORERS:
            raise ArgumentError(f"no rewrite is called {name!r}: they are {', '.join(RESTORERS)}")
        new, shapes = RESTORERS[name](function, shapes, example, data)
        function = new
    if new is None:
        raise ArgumentError("there is no decision: these are of no rewritten function")
    return new, shapes


def save(
    path: Path,
    fn: Callable[..., Any],
    params: Params,
    *,
    notes: Mapping[str, Note] | None = None,
    metadata: Mapping[str, Any] | None = None,
    coder: str = "auto",
) -> int:
    """Saves a rewritten function's parameters and all decisions that made it, as one small file.

    Whatever chain of rewrites it went through, :func:`load` makes the same function in another process, to the bit.
    The original function, which is code, is no part of the file: for a file that needs none see
    :func:`jaxcomp.export.save`.

    Args:
      path: the file; its folder exists.
      fn: a function that a rewrite returned, jitted or not.
      params: its parameters.
      notes: as of :func:`jaxcomp.pack.save`.
      metadata: a JSON-able dict.
      coder: as of :func:`jaxcomp.pack.save`.

    Returns:
      The bytes of the file.

    Raises:
      ArgumentError: if the function is not rewritten, or wraps a rewritten one in code of its own; if the parameters
        are others than it was returned with; for a decision that cannot be stored, such as a fit of one's own; as
        :func:`jaxcomp.pack.save`.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp
      >>> from jaxcomp.rewrite import Scheme
      >>> params = {"w": jnp.array([[1.27, 0.5], [-1.0, 0.02]])}
      >>> layer = lambda p, x: x @ p["w"]
      >>> fn, packed = quantize.quantize(layer, params, jnp.ones((1, 2)), scheme=Scheme(bits=4, inputs=None))
      >>> shapes = jax.eval_shape(lambda: params)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.jcz", fn, packed)
      ...     again, loaded = load(f"{folder}/m.jcz", layer, shapes, jnp.ones((1, 2)))
      >>> bool(jnp.array_equal(again(loaded, jnp.ones((3, 2))), fn(packed, jnp.ones((3, 2)))))
      True
    """
    own = rewritten(fn)
    if own is None:
        raise ArgumentError(
            f"save stores functions that a rewrite returned, and got {fn!r:.80}: for parameters alone call "
            "jaxcomp.pack.save; a function around a rewritten one has to be rewritten itself"
        )
    own.check(params)
    _check_chain(own)
    rows = [[name, said, to_json(data, f"the decision of {name}")] for name, data, said in own.decisions]
    return artifact.write(path, params, notes=notes, metadata=metadata, rewrites=rows, coder=coder)


def load(
    path: Path, apply_fn: Callable[..., Any], params: Params, *example: Any, max_bytes: int | None = None
) -> tuple[Rewritten, Params]:
    """Loads a function that :func:`save` stored: the same to the bit.

    Args:
      path: the file.
      apply_fn: ``apply_fn(params, *inputs)``: the function that the first of the rewrites was given.
      params: the shapes of its parameters (or parameters), in the containers that the new ones are to have:
        ``jax.eval_shape(model.init, ...)``, ``nnx.state(nnx.eval_shape(...))``.
      *example: the other arguments, or their shapes.
      max_bytes: as in :func:`jaxcomp.pack.load`.

    Returns:
      The rewritten function and its parameters.

    Raises:
      ArtifactError: if the file is no artifact, cut short or altered, holds no rewritten function, or was made of
        another function or of parameters of other shapes.

    Example:
      See :func:`save`.
    """
    held = stored.read(path, max_bytes)
    if not held.rewrites:
        raise ArtifactError(
            f"{path}: holds parameters and no rewritten function: load them by jaxcomp.pack.load, and make the "
            "function by the calls that made it (files hold functions if jaxcomp.rewrite.save wrote them)"
        )
    try:
        decisions = [Decision(name, from_json(data), said) for name, said, data in held.rewrites]
    except (*container.FORGED, JaxcompError) as error:
        raise container.foreign(path, error) from error
    try:
        new, shapes = restore(apply_fn, params, *example, decisions=decisions)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    except (*container.FORGED, JaxcompError) as error:
        chain = " -> ".join(each.name for each in decisions)
        raise ArtifactError(
            f"{path}: {chain} cannot be done again on the function, shapes and example that were given: give those of "
            f"the function that was rewritten ({error})"
        ) from error
    return new, artifact.decoded(path, held, like=shapes)[0]


def _check_chain(own: Rewritten) -> None:
    """Refuses a rewritten function below code of the user's own, whose decisions would be lost."""
    function = own.original
    for _ in range(16):  # wrappers of wrappers; a function may name itself
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            return
        if rewritten(inner) is not None:
            raise ArgumentError(
                f"between two rewrites stands code of its own ({own.original!r:.80} around {rewritten(inner)!r:.80}), "
                "which no file holds: rewrite the whole again, that code first, or save the parameters alone by "
                "jaxcomp.pack.save"
            )
        function = inner
