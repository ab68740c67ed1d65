"""Choices: which channels stay, given how much each matters and what may be left."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxcomp.core.counts import kept_count
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Params
from jaxcomp.prune.limits import LimitRule, least_kept
from jaxcomp.rewrite.channels.budgets import cheapest_cut, fastest_cut
from jaxcomp.rewrite.channels.importance import importance
from jaxcomp.rewrite.channels.ranking import KeepMasks, Ranking
from jaxcomp.trace.channels.groups import Groups

ScoreFunction = Callable[[Groups, Params], Mapping[str, Any]]


def choose(
    fraction: float | None = None,
    score: str | ScoreFunction = "l2",
    *,
    macs: float | None = None,
    parameters: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    seconds: float | None = None,
    scope: Literal["group", "global"] = "group",
    per: Literal["macs", "bytes"] | None = None,
    rules: Sequence[LimitRule] = (),
    multiple: int = 1,
    minimum: int = 1,
    maximum: float = 1.0,
    trials: int = 6,
    **options: Any,
) -> Callable[[Groups, Params], KeepMasks]:
    """Makes a choice for :func:`shrink`: cuts the least important channels, as many as asked or as a target takes.

    Exactly one of ``fraction`` (what is *cut*) and the targets (what may be *left*) is given. For a target, channels
    are cut in the order of their importance until it is met and no further: what each cut saves is counted anew, for
    the channels of two groups that meet in a kernel save less together than alone.

    Args:
      fraction: of channels to cut, in [0, 1): of each group, or of all groups' channels ranked together.
      score: a score of :func:`importance`, or a function ``(groups, params) -> {group: [size]}``: channels of
        infinity are never cut, and NaN is refused.
      macs, parameters, bytes: costs that may be left: up to 1, the fraction of the whole function's; above, the number.
        Counts are those of ``groups.costs()``.
      latency: the part of the function's run time that may be left, measured on the present device with inputs of the
        example's shapes. As good as the clock: of at most ``trials`` candidates that are compiled and timed (each
        against the whole, medians), the one with most channels that was fast enough.
      seconds: the same, as a time.
      scope: ``"group"``: all groups give up the same fraction of their channels; ``"global"``: all channels are ranked
        together.
      per: rank by importance over what cutting the channel alone saves, in MACs or bytes.
      rules: which groups stay whole, and of which at most a fraction is cut: :func:`jaxcomp.prune.least_kept`.
      multiple: each group keeps a multiple of so many channels, rounded up (never more than it has). TPUs compute in
        tiles of 128 lanes by 8 sublanes: 130 channels cost what 256 cost. With a fraction, more is kept for it.
      minimum: channels that each group keeps at least.
      maximum: the fraction of any one group that is cut at most.
      trials: how many candidates to compile for a target of time.
      **options: for :func:`importance`.

    Returns:
      ``(groups, params) -> {group: bool [size]}``.

    Raises:
      ArgumentError: for arguments outside their ranges; from the choice: for scores that do not fit or are NaN, and for
        a target that cannot be reached, with what can.
      RuleError: (from the choice) for a rule that names no group.

    Example:
      >>> import jax.numpy as jnp, jaxcomp.trace
      >>> params = {"up": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "down": jnp.ones((2, 1))}
      >>> found = jaxcomp.trace.groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 2)))
      >>> choose(0.5)(found, params)["up"].tolist()
      [True, False]
      >>> choose(macs=0.5)(found, params)["up"].tolist()
      [True, False]
    """
    targets = {"macs": macs, "parameters": parameters, "bytes": bytes, "latency": latency, "seconds": seconds}
    asked = {name: value for name, value in targets.items() if value is not None}
    _check(fraction, asked, scope, per, multiple, trials)
    if callable(score) and options:
        raise ArgumentError(f"a function scores by itself: {', '.join(options)} would go unused")

    def decide(groups: Groups, params: Params) -> KeepMasks:
        given = score(groups, params) if callable(score) else importance(groups, params, score, **options)
        scores = _fitting(groups, given)
        least = least_kept(groups, rules, minimum, maximum)
        weights = {name: getattr(groups[name], per) if per else 1 for name in scores}
        ranking = Ranking(scores, least, scope, weights, multiple)
        if fraction is None:
            ((name, target),) = asked.items()
            if name in ("latency", "seconds"):
                return fastest_cut(groups, params, ranking, name, target, trials)
            return ranking.keep(cheapest_cut(groups, ranking, name, target))
        if scope == "global":
            total = sum(map(len, scores.values()))
            return ranking.keep(total - kept_count(float(fraction), total))
        return ranking.top({name: kept_count(float(fraction), len(own)) for name, own in scores.items()})

    return decide


def _fitting(groups: Groups, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    scores: dict[str, np.ndarray] = {}
    for name, value in given.items():
        group, own = groups[name], np.asarray(value, np.float64)
        if own.shape != (group.size,):
            raise ArgumentError(f"the scores of group {name!r} must have shape ({group.size},), got {own.shape}")
        scores[group.name] = own
    return scores


def _check(
    fraction: float | None, asked: Mapping[str, float], scope: str, per: str | None, multiple: int, trials: int
) -> None:
    if (fraction is not None) + len(asked) != 1:
        raise ArgumentError(
            "give exactly one of fraction (of channels to cut) and macs=, parameters=, bytes=, latency=, seconds= "
            f"(what may be left); got {', '.join([*(['fraction'] if fraction is not None else []), *asked]) or 'none'}"
        )
    if fraction is not None and not (isinstance(fraction, int | float | np.number) and 0 <= fraction < 1):
        raise ArgumentError(f"fraction must be at least 0 and below 1, of channels to cut, got {fraction!r}")
    for name, value in asked.items():
        if not value > 0 or (name == "latency" and value > 1):
            raise ArgumentError(f"{name} must be above 0{' and at most 1' if name == 'latency' else ''}, got {value!r}")
    if multiple < 1 or trials < 1:
        raise ArgumentError(f"multiple and trials must be at least 1, got {multiple!r} and {trials!r}")
    if scope not in ("group", "global"):
        raise ArgumentError(f"scope must be 'group' or 'global', got {scope!r}")
    if per not in (None, "macs", "bytes"):
        raise ArgumentError(f"per must be 'macs', 'bytes' or None, got {per!r}")
    if per and scope == "group":
        raise ArgumentError("per= weighs channels of different groups against each other: it needs scope='global'")
