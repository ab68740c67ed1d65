"""The loop of iterative pruning: prune a little more, train, score, until enough is pruned or too much is lost."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

import jaxcomp as jc
from train.common.errors import UserError
from train.common.step import Variables

Rewind = Literal["weights", "learning rate"] | None


class Round(NamedTuple):
    """A network on the way.

    Attributes:
      asked: the sparsity asked of it; 0 for the network that the loop began with.
      score: what it scored.
      variables: parameters and statistics; the pruned weights are zeros.
    """

    asked: float
    score: float
    variables: Variables


class Outcome(NamedTuple):
    """The result of the loop.

    Attributes:
      best: the last round that holds the floor.
      rounds: ``{"asked", "score"}`` of all, the first that does not hold included.
      why: why it ended: ``"target"``, ``"enough"`` or ``"floor"``.
    """

    best: Round
    rounds: list[dict[str, float]]
    why: str


def geometric(target: float, share: float) -> list[float]:
    """Sparsities up to a target, each of which takes the same share of what is left.

    Example:
      >>> [round(sparsity, 3) for sparsity in geometric(0.9, 0.5)]
      [0.5, 0.75, 0.875, 0.9]
    """
    if not (0 < target < 1 and 0 < share < 1):
        raise UserError(f"the target and the share pruned a round must lie in (0, 1), got {target} and {share}")
    count = math.log1p(-target) / math.log1p(-share)
    return [1 - (1 - share) ** n for n in range(1, math.ceil(count - 1e-6))] + [target]


def prune_until(
    first: Variables,
    recipe: Callable[[float], jc.Compressor],
    tune: Callable[[Variables, Any, int, bool], Variables],
    score: Callable[[Variables], float],
    *,
    asked: Sequence[float],
    floor: float = -math.inf,
    enough: Callable[[Round], bool] = lambda one: False,
    rewind: Rewind = None,
    early: Variables | None = None,
    folder: Path | None = None,
    seen: Callable[[Round], None] = lambda one: None,
) -> Outcome:
    """Prunes a little more, trains and scores, until enough is pruned or the score falls below a floor.

    Args:
      first: the trained network, ``{"params": ...}`` and statistics.
      recipe: ``sparsity -> compressor`` of the parameters, which ranks them when it is initialized.
      tune: ``(variables, masks, round, rewound) -> variables``: trains with the masks as they are. ``rewound`` asks
        for the learning rates of a whole training, else for its last ones.
      score: of a network as its recipe shows it; higher is better.
      asked: rising sparsities, one a round, the target last; see :func:`geometric`.
      floor: the least score that is accepted.
      enough: ends the loop early, say at a file's size.
      rewind: what is turned back after pruning: the learning rate alone, or the weights, to ``early``, with it.
      early: the network as it was early in its training; needed to rewind weights.
      folder: where rounds are kept, so that a loop that was stopped goes on with the next.
      seen: told of each round when it is known, those kept in the folder included.

    Returns:
      The last network that holds the floor, and how the loop came to it.

    Raises:
      UserError: if the network to begin with is below the floor, sparsities do not rise, or ``early`` is missing.

    Reference: Frankle and Carbin, The lottery ticket hypothesis, 2019; Renda et al., Comparing rewinding and
    fine-tuning in neural network pruning, 2020.
    """
    if rewind == "weights" and early is None:
        raise UserError("to rewind weights, the network as it was early in its training is needed: none is given")
    if not asked or any(b <= a for a, b in zip([0.0, *asked], asked, strict=False)):
        raise UserError(f"sparsities must rise from above 0, got {list(asked)}")

    def pruned(last: Round, number: int) -> Variables:
        compressor = recipe(asked[number - 1])
        masks = jax.device_get(compressor.init(last.variables["params"]))  # on the host no step can donate them
        source = early if rewind == "weights" and early is not None else last.variables
        start = {**source, "params": compressor.apply(source["params"], masks)}
        tuned = tune(start, masks, number, rewind is not None)
        return {**tuned, "params": compressor.apply(tuned["params"], masks)}

    def reached(last: Round | None, number: int) -> Round:
        sparsity = ([0.0, *asked])[number]
        one = _kept(folder, number, sparsity)
        if one is None:
            variables = first if last is None else pruned(last, number)
            one = _keep(folder, number, Round(sparsity, float(score(variables)), jax.device_get(variables)))
        seen(one)
        return one

    best = reached(None, 0)
    rounds = [{"asked": best.asked, "score": best.score}]
    if best.score < floor:
        raise UserError(f"the network scores {best.score:.4g} before it is pruned, below the floor of {floor:.4g}")
    for number in range(1, len(asked) + 1):
        one = reached(best, number)
        rounds.append({"asked": one.asked, "score": one.score})
        if one.score < floor:
            return Outcome(best, rounds, "floor")
        best = one
        if enough(one):
            return Outcome(best, rounds, "enough")
    return Outcome(best, rounds, "target")


def _keep(folder: Path | None, number: int, one: Round) -> Round:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        about = {"asked": one.asked, "score": one.score}
        jc.pack.save(folder / f"round-{number}.jcz", one.variables, metadata=about)
    return one


def _kept(folder: Path | None, number: int, asked: float) -> Round | None:
    """A round as an earlier run left it."""
    path = None if folder is None else folder / f"round-{number}.jcz"
    if path is None or not path.exists():
        return None
    variables, about = jc.pack.load(path)
    if about["asked"] != asked:
        raise UserError(
            f"{path} is of another run: it was asked for {about['asked']:.4g}, now it is {asked:.4g}. Name another "
            "folder, or delete that one to start again in it."
        )
    return Round(asked, about["score"], variables)
