"""Biases: the parameters by which the means of sites' results can be set."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxcomp.core.types import Skipped
from jaxcomp.trace.affine import Chain, chains
from jaxcomp.trace.ir import Node, Program
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.readers import Readers
from jaxcomp.trace.uses import Uses


class Bias(NamedTuple):
    """A parameter by which the means of a site's results can be set.

    Attributes:
      path: its own.
      weight: of the site.
      node: that adds it, or subtracts it, as the mean of batch norm.
      axes: of the node's result along which it varies.
      sign: of the result's change with it.
      scaled: whether the site's result is scaled before it.
    """

    path: str
    weight: str
    node: Node
    axes: tuple[int, ...]
    sign: int
    scaled: bool


class Biases(NamedTuple):
    """The biases by which the means of sites' results can be corrected.

    Attributes:
      of: by weight, the biases of all its sites.
      missing: by weight, why there are none.
    """

    of: Mapping[str, tuple[Bias, ...]]
    missing: Mapping[str, str]


def find_biases(program: Program, uses: Mapping[str, Uses]) -> Biases:
    """Finds the bias of each site: what is first added to its result, or subtracted, as a batch norm's mean is.

    It must be a parameter that nothing else reads, with a number for each feature, outside of loops.

    Args:
      program: a traced function.
      uses: of its parameters, by path.
    """
    sides = {use.node: use.side for own in uses.values() for use in own.sites}
    found = {chain.node: chain for chain in chains(program, Origins(program), sides)}
    look = Readers(program)
    of: dict[str, tuple[Bias, ...]] = {}
    missing: dict[str, str] = {}
    for path, own in uses.items():
        each = [_bias(look, path, found.get(use.node)) for use in own.sites]
        lost = [bias.reason for bias in each if isinstance(bias, Skipped)]
        if lost:
            missing[path] = lost[0]
        elif each:
            of[path] = tuple(bias for bias in each if isinstance(bias, Bias))
    return Biases(of, missing)


def _bias(look: Readers, weight: str, chain: Chain | None) -> Bias | Skipped:
    """The bias of a site."""
    if chain is None or chain.lengths:
        return Skipped("it is in a loop, a branch or a shard_map")
    step = next((step for step in chain.after if step.shifts), None)
    if step is None or step.by is None:
        return Skipped("it has no bias")
    parameter = look.parameter(step.by)
    if parameter is None:
        return Skipped("its bias is computed")
    path, value, alone = parameter
    if not alone:
        return Skipped("its bias has other readers")
    features = [step.node.outs[0].shape[axis] for axis in sorted(step.axes)]
    if [n for n in value.shape if n > 1] != [n for n in features if n > 1]:
        return Skipped("its bias does not hold one number a feature")
    sign = -1 if step.node.op == "sub" and step.place == 0 else 1
    return Bias(path, weight, step.node, tuple(sorted(step.axes)), sign, chain.after[0] is not step)
