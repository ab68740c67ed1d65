"""The rate: the bits that a view's codes will take in a file, as a penalty for the training step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.called import checked, printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import kept as kept_by
from jaxcomp.core.meshes import automatic
from jaxcomp.core.paths import path_string
from jaxcomp.core.types import Compressor, Note, Params, State, Step
from jaxcomp.pack import code_length
from jaxcomp.quant.formats import named
from jaxcomp.share.codebook import Codebook


class Rated(NamedTuple):
    """The state of a rated compressor.

    Attributes:
      view: the compressor's own.
      model: for each tensor a :class:`jaxcomp.Learned` of ``[4]`` float32, the model of its codes.
    """

    view: State
    model: State


@printed
def rated(compressor: Compressor) -> Compressor:
    r"""Gives a compressor that rounds a model of its codes' lengths, so that :func:`rate` can tell and lower them.

    Its view is the compressor's. A code's length is :math:`-\log_2 q` of a model of four numbers a tensor: how likely 0
    is, how likely a larger code, and how both follow from how active the weight's input and output are. The four are
    learned (:func:`jaxcomp.learned`), best by Adam, from the rate alone. Since codes in idle channels are dearer, whole
    channels die; :func:`jaxcomp.rewrite.remove_dead` cuts them.

    Args:
      compressor: one whose state is a grid of integers or a codebook a tensor: :func:`jaxcomp.quant.fake` and
        :func:`jaxcomp.quant.lsq` of bits, :func:`jaxcomp.share.cluster`, :func:`jaxcomp.share.dkm`. What prunes before
        it stands outside: ``jc.chain(prune, rated(round))``.

    Returns:
      A compressor whose state is a :class:`Rated`.

    Raises:
      ArgumentError: from its functions, for a leaf of integers (leave it out with :func:`jaxcomp.partition`), and for a
        compressor without grids or codebooks, naming the path.

    Example:
      >>> import jaxcomp as jc
      >>> recipe = rated(jc.quant.lsq(3))
      >>> params = {"kernel": jnp.array([[0.1, -2.0], [1.9, 0.0]])}
      >>> state = recipe.init(params)
      >>> sorted(jc.learned(state))
      ['model/kernel', 'view/kernel/scale']
      >>> float(jax.grad(lambda p: rate(recipe, p, state))(params)["kernel"][1, 0]) > 0  # smaller is shorter
      True

    Reference: Oktay et al., Scalable model compression by entropy penalized reparameterization, 2020.
    """
    checked(compressor, "rated: compressor")

    def init(params: Params) -> State:
        view = compressor.init(params)
        if isinstance(view, Codebook):
            raise ArgumentError("rated takes a codebook a tensor, and got one for all: jc.share.cluster(scope='layer')")
        shown = compressor.apply(params, view)
        return Rated(view, jax.tree_util.tree_map_with_path(_begin, params, shown, view))

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        return state._replace(view=compressor.update(params, state.view, step, **extra))

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        notes = dict(compressor.describe(params, state.view, step))
        for path, note in notes.items():
            if note.format is not None and named(note.format).kind != "integer":
                raise ArgumentError(
                    f"{path!r}: the rate is of integer codes or codebooks, and {note.format} is neither"
                )
        return notes

    def bits(params: Params, state: State) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def one(path: Any, w: Any, shown: Any, node: Any, model: Any) -> None:
            found[path_string(path)] = automatic(_bits, w, shown, node, model.value)

        shown = compressor.apply(params, state.view)
        jax.tree_util.tree_map_with_path(one, params, shown, state.view, state.model)
        return found

    return Compressor(
        init,
        update,
        lambda params, state: compressor.apply(params, state.view),
        describe,
        lambda params, state: kept_by(compressor, params, state.view),
        bits,
    )


def _begin(path: Any, w: Any, shown: Any, node: Any) -> Any:
    if not leaves.is_real(w):
        raise ArgumentError(
            f"{path_string(path)!r}: the rate is of floating-point weights that are rounded, and this leaf is "
            f"{getattr(w, 'dtype', type(w).__name__)}: leave it out with jc.partition"
        )
    model = automatic(code_length.start, w, shown, node)
    if model is None:
        raise ArgumentError(
            f"{path_string(path)!r}: rated needs a compressor whose state is a grid or a codebook a tensor, and got a "
            f"{type(node).__name__}: jc.quant.fake, jc.quant.lsq, jc.share.cluster and jc.share.dkm have one; what "
            "prunes goes before, jc.chain(prune, jc.pack.rated(round))"
        )
    return model


def _bits(w: Array, shown: Array, node: Any, model: Array) -> Array:
    at = code_length.places(w, shown, node)
    assert at is not None  # or there were no model
    return code_length.code_length(at, model)


def rate(recipe: Compressor, params: Params, state: State) -> Array:
    """Counts the bits that the codes of a recipe's view take, all rated tensors together: a penalty for the loss.

    What a file adds, scales and its header, does not count. ``recipe.bits(params, state)`` tells of each tensor.

    Args:
      recipe: with :func:`rated` in it.
      params: the parameters.
      state: its state, through :func:`jaxcomp.with_learned` if the models are to learn.

    Returns:
      A float32 scalar, differentiable in both.

    Raises:
      ArgumentError: if nothing in the recipe is rated.

    Example:
      >>> import jaxcomp as jc
      >>> recipe = jc.partition([("kernel", jc.chain(jc.prune.magnitude(0.5), rated(jc.quant.fake(2))))])
      >>> params = {"kernel": jnp.array([0.1, -0.2, 1.0, -1.0] * 4)}
      >>> round(float(rate(recipe, params, recipe.init(params))))  # a bit whether, half of them one for the sign
      25
    """
    found = recipe.bits(params, state) if recipe.bits is not None else {}
    if not found:
        raise ArgumentError(
            "rate(recipe, params, state): nothing in the recipe is rated; wrap what rounds, "
            "jc.pack.rated(jc.quant.lsq(4))"
        )
    return sum((length.astype(jnp.float32) for length in found.values()), jnp.zeros((), jnp.float32))
