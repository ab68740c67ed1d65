"""Networks that are trained in few bits, weights and what layers read, and the integer networks that they become."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

import jaxcomp as jc
from jaxcomp.core.paths import path_string
from train.common.step import Batch, Functions, Variables


class Grids(NamedTuple):
    """How a network is rounded.

    Attributes:
      bits: of weights, 1 to 8.
      input_bits: of what layers read, 1 to 8.
      end_bits: of both in the first and in the last layer.
      affine: whether weights have a zero point a channel: of 2 bits four levels, not three.
      method: whose gradients train the grids: ``"lsq"`` or ``"pact"``.
      batch_norm: ``"live"``: with each batch's statistics; ``"frozen"``: with its running ones; ``"folded"``: into the
        kernels (both need a fifth of the learning rate).
    """

    bits: int
    input_bits: int
    end_bits: int = 8
    affine: bool = False
    method: str = "lsq"
    batch_norm: str = "live"


def scheme(model: Functions, variables: Variables, images: Any, grids: Grids) -> list[tuple[str, Any]]:
    """The asked bits, and those of the ends for the first and the last layer."""
    first, last = jc.trace.ends(model.infer, variables, images)
    ends = jc.rewrite.Scheme(grids.end_bits, input_bits=grids.end_bits)
    return [(re.escape(path), ends) for path in first + last] + [
        (".*", jc.rewrite.Scheme(grids.bits, symmetric=not grids.affine, input_bits=grids.input_bits))
    ]


def rounded(
    model: Functions, variables: Variables, some: Sequence[Batch], grids: Grids, keep_zeros: bool = False
) -> tuple[Functions, Variables, jc.rewrite.QuantizedTraining]:
    """The network with rounded weights and inputs, to be trained, and its variables: weights and steps in "params".

    Args:
      model: in float.
      variables: trained.
      some: batches by which ranges begin.
      grids: how it is rounded.
      keep_zeros: whether weights that are 0 stay so.

    Returns:
      The functions, their variables, and what makes the integer network of ``as_tree(variables)``.
    """
    images = [batch["image"] for batch in some]
    rules = scheme(model, variables, images[0][:1], grids)
    how: dict[str, Any] = {"scheme": rules, "weight_grids": grids.method, "input_grids": grids.method}
    how["keep_zeros"] = keep_zeros
    if grids.batch_norm == "live":  # calibrated as it is trained
        learn, tree = jc.rewrite.qat(model.learn, variables, some, **how)
        infer = learn.on(model.infer)
        functions = Functions(
            lambda variables, images: infer(as_tree(variables), images),
            lambda variables, batch: learn(as_tree(variables), batch),
        )
    else:
        function: Any = model.infer
        if grids.batch_norm == "folded":
            function, variables = jc.rewrite.fold_batch_norm(function, variables, images[0])
        infer, tree = jc.rewrite.qat(function, variables, images, **how)

        def at_rest(variables: Variables, batch: Batch) -> tuple[jax.Array, Variables]:
            stats = {name: own for name, own in variables.items() if name != "params"}
            return infer(as_tree(variables), batch["image"]), stats

        functions = Functions(lambda variables, images: infer(as_tree(variables), images), at_rest)
    own = {"weights": tree["params"]["params"], "steps": tree["steps"]}
    return functions, {**tree["params"], "params": own}, infer


def as_tree(variables: Variables) -> dict[str, Any]:
    """Variables as :func:`jaxcomp.rewrite.qat` has them, of those whose parameters hold weights and steps."""
    own = variables["params"]
    return {"params": {**variables, "params": own["weights"]}, "steps": own["steps"], "ranges": {}}


def kernels(trained: Any) -> Any:
    """Which of the trained numbers decay: weights of layers, not their steps, nor norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim > 1 and "steps" not in path_string(path).split("/"), trained
    )
