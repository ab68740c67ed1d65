"""Iterative pruning: the sparsest network that holds the floor comes back, and a loop that stopped goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxcomp as jc
from train.common.errors import UserError
from train.common.iterative import geometric, prune_until

WEIGHTS = np.arange(1.0, 21.0, dtype=np.float32)
FIRST = {"params": {"kernel": WEIGHTS}, "batch_stats": {"mean": np.float32(3)}}
EARLY = {"params": {"kernel": -WEIGHTS[::-1]}, "batch_stats": {"mean": np.float32(7)}}


def zeros(variables: Any) -> float:
    return float(np.mean(np.asarray(variables["params"]["kernel"]) == 0))


class Loop:
    """The loop on twenty weights that training doubles; the score is what is left of them, and calls are counted."""

    def __init__(self) -> None:
        self.tuned: list[tuple[Any, int, bool]] = []

    def tune(self, variables: Any, masks: Any, number: int, rewound: bool) -> Any:
        self.tuned.append((variables, number, rewound))
        return {**variables, "params": {"kernel": 2 * np.asarray(variables["params"]["kernel"]) + 1}}

    def __call__(self, asked: list[float], **options: Any) -> Any:
        return prune_until(FIRST, jc.prune.magnitude, self.tune, lambda v: 1 - zeros(v), asked=asked, **options)


@pytest.mark.parametrize(("target", "share"), [(0.9, 0.5), (0.99, 0.2), (0.75, 0.5), (0.1, 0.5)])
def test_rounds_take_the_same_share_of_what_is_left_up_to_the_target(target: float, share: float) -> None:
    left = 1 - np.array([0, *geometric(target, share)])
    assert left[-1] == 1 - target
    np.testing.assert_allclose(left[1:-1] / left[:-2], 1 - share)
    assert 0 < 1 - left[-1] / left[-2] <= share + 1e-9


def test_the_best_is_the_last_that_holds_the_floor() -> None:
    outcome = Loop()([0.25, 0.5, 0.75], floor=0.4)
    assert (outcome.why, outcome.best.asked, outcome.best.score) == ("floor", 0.5, 0.5)
    assert [row["asked"] for row in outcome.rounds] == [0, 0.25, 0.5, 0.75]
    assert zeros(outcome.best.variables) == 0.5
    assert Loop()([0.25, 0.5], floor=0.4).why == "target"
    assert Loop()([0.25, 0.5, 0.75], enough=lambda one: zeros(one.variables) >= 0.5).why == "enough"


def test_what_is_pruned_stays_pruned_and_the_rest_is_trained_on() -> None:
    kernel = Loop()([0.25, 0.5]).best.variables["params"]["kernel"]
    np.testing.assert_array_equal(kernel, np.where(WEIGHTS > 10, 4 * WEIGHTS + 3, 0))


@pytest.mark.parametrize(("rewind", "rewound"), [(None, False), ("learning rate", True), ("weights", True)])
def test_rewinding_says_from_where_a_round_is_trained(rewind: Any, rewound: bool) -> None:
    loop = Loop()
    outcome = loop([0.25, 0.5], rewind=rewind, early=EARLY)
    assert [(number, asked) for _, number, asked in loop.tuned] == [(1, rewound), (2, rewound)]
    begun = np.asarray(loop.tuned[0][0]["params"]["kernel"])
    origin = EARLY if rewind == "weights" else FIRST
    np.testing.assert_array_equal(begun, np.where(WEIGHTS > 5, origin["params"]["kernel"], 0))
    assert outcome.best.variables["batch_stats"]["mean"] == origin["batch_stats"]["mean"]


def test_a_loop_that_stopped_goes_on_with_the_next_round(tmp_path: Path) -> None:
    seen: list[float] = []
    Loop()([0.25, 0.5], folder=tmp_path)
    loop = Loop()
    resumed = loop([0.25, 0.5, 0.75], folder=tmp_path, seen=lambda one: seen.append(one.asked))
    assert [number for _, number, _ in loop.tuned] == [3]
    assert seen == [0, 0.25, 0.5, 0.75]
    whole = Loop()([0.25, 0.5, 0.75])
    np.testing.assert_array_equal(resumed.best.variables["params"]["kernel"], whole.best.variables["params"]["kernel"])
    assert resumed.rounds == whole.rounds
    with pytest.raises(UserError, match=r"round-1\.jcz is of another run: it was asked for 0\.25, now it is 0\.3"):
        Loop()([0.3], folder=tmp_path)


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ([0.5, 0.5], {}, "sparsities must rise"),
        ([], {}, "sparsities must rise"),
        ([0.5], {"floor": 1.5}, "scores 1 before it is pruned, below the floor of 1.5"),
        ([0.5], {"rewind": "weights"}, "early in its training is needed"),
    ],
)
def test_what_cannot_be_is_refused(asked: list[float], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Loop()(asked, **options)
    with pytest.raises(UserError, match=r"must lie in \(0, 1\), got 1.5 and 0.2"):
        geometric(1.5, 0.2)
