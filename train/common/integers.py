"""Integer networks: what an artefact says of one, and the function that computes with its codes."""

import re
from collections.abc import Mapping
from typing import Any

import jax

import jaxcomp as jc
from train.common.step import Functions

FIELDS = ("bits", "symmetric", "input_bits", "inputs")
"""What of a scheme the scripts choose."""


def described(scheme: Any, folded: bool) -> dict[str, Any]:
    """What an artefact says of an integer network; :func:`restored` reads it.

    Args:
      scheme: one for all weights, rules, or one for each path.
      folded: whether batch norm was folded before.

    Example:
      >>> described([("a", jc.rewrite.Scheme(8)), (".*", jc.rewrite.Scheme(4, inputs=None))], True)["rules"][1]
      ['.*', {'bits': 4, 'symmetric': True, 'input_bits': 8, 'inputs': None}]
    """
    rules = [(".*", scheme)] if isinstance(scheme, jc.rewrite.Scheme) else scheme
    if isinstance(scheme, Mapping):
        rules = [(re.escape(path), own) for path, own in scheme.items()]
    said = [[pattern, own and {field: getattr(own, field) for field in FIELDS}] for pattern, own in rules]
    return {"folded": folded, "rules": said}


def restored(model: Functions, about: dict[str, Any], images: Any) -> Functions:
    """The function of an artefact's codes, from shapes alone.

    Args:
      model: in floating point.
      about: of :func:`described`.
      images: some, of which only the shape is read.
    """
    function: Any = model.infer
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    if about["folded"]:
        function, shapes = jc.rewrite.fold_batch_norm(function, shapes, images)
    rules = [(pattern, own and jc.rewrite.Scheme(**own)) for pattern, own in about["rules"]]
    return Functions(jc.rewrite.quantize(function, shapes, images, scheme=rules)[0])
