"""Choices: which channels stay, given how much each matters."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Params
from jaxcomp.rewrite.importance import importance
from jaxcomp.trace.groups import Groups

Scores = Mapping[str, Any]


def choose(
    fraction: float,
    score: str | Callable[[Groups, Params], Scores] = "l2",
    *,
    scope: Literal["group", "global"] = "group",
    multiple: int = 1,
    minimum: int = 1,
    **options: Any,
) -> Callable[[Groups, Params], dict[str, np.ndarray]]:
    """A choice for :func:`shrink`: cuts the least important channels.

    Args:
      fraction: of channels to cut, in [0, 1): of each group, or of all groups' channels ranked together.
      score: a score of :func:`importance`, or a function ``(groups, params) -> {group: [size]}``.
      scope: ``"group"`` or ``"global"``.
      multiple: each group keeps a multiple of so many channels, rounded up (never more than it has). TPUs compute in
        tiles of 128 lanes by 8 sublanes: 130 channels cost what 256 cost.
      minimum: each group keeps at least so many.
      **options: for :func:`importance`.

    Returns:
      ``(groups, params) -> {group: bool [size]}``.

    Raises:
      ArgumentError: for a fraction outside [0, 1), or a multiple or minimum below 1.

    Example:
      >>> import jax.numpy as jnp, jaxcomp.trace
      >>> params = {"up": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "down": jnp.ones((2, 1))}
      >>> found = jaxcomp.trace.groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 2)))
      >>> choose(0.5)(found, params)["up"].tolist()
      [True, False]
    """
    if not 0 <= fraction < 1:
        raise ArgumentError(f"fraction must be at least 0 and below 1, got {fraction!r}")
    if multiple < 1 or minimum < 1:
        raise ArgumentError(f"multiple and minimum must be at least 1, got {multiple!r} and {minimum!r}")
    if scope not in ("group", "global"):
        raise ArgumentError(f"scope must be 'group' or 'global', got {scope!r}")

    def decide(groups: Groups, params: Params) -> dict[str, np.ndarray]:
        given = score(groups, params) if callable(score) else importance(groups, params, score, **options)  # type: ignore[arg-type]
        scores = {name: np.asarray(value) for name, value in given.items()}
        counts = {name: round(len(own) * (1 - fraction)) for name, own in scores.items()}
        if scope == "global" and scores:
            counts = _global(scores, fraction)
        return {name: _top(own, _rounded(counts[name], len(own), multiple, minimum)) for name, own in scores.items()}

    return decide


def _global(scores: Mapping[str, np.ndarray], fraction: float) -> dict[str, int]:
    """How many of each group are among the best of all; ties go to the earlier group."""
    everything = np.concatenate(list(scores.values()))
    owner = np.repeat(np.arange(len(scores)), [len(own) for own in scores.values()])
    best = np.argsort(-everything, kind="stable")[: round(len(everything) * (1 - fraction))]
    counts = np.bincount(owner[best], minlength=len(scores))
    return dict(zip(scores, counts.tolist(), strict=True))


def _rounded(count: int, size: int, multiple: int, minimum: int) -> int:
    return min(size, -(-max(count, minimum) // multiple) * multiple)


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask
