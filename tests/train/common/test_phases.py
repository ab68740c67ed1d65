"""Phases are made of a configuration before anything is written: of batches that fit, and optimizers that can be."""

import numpy as np
import pytest

from train.common import phases
from train.common.data import Dataset, Split
from train.common.errors import UserError
from train.common.stages import stages
from train.configs import default


def shapes(side: int, count: int = 70) -> Dataset:
    images = np.broadcast_to(np.uint8(0), (count, side, side, 3))
    return Dataset("shapes", 2, lambda name: Split(images, np.arange(count, dtype=np.int32) % 2))


@pytest.mark.parametrize(("side", "count", "size"), [(8, 70, 64), (224, 50, 41), (2048, 2, 1)])
def test_batches_that_rank_channels_fit_one_device(side: int, count: int, size: int) -> None:
    config = default.get_config()
    config.batch_size = 64
    (batch,) = phases.some_batches(shapes(side, count), config, count=1)
    assert batch["image"].shape == (size, side, side, 3)


def test_every_phase_has_an_optimizer_that_can_be_made() -> None:
    config = default.get_config()
    row = stages(config, {})
    assert [phase.name for phase in phases.make_phases(config, shapes(8), row)] == ["teacher", "student"]
    config.optimizer_options = {"beta": 0.9}
    with pytest.raises(UserError, match=r"optax\.adamw has no beta; it has:"):
        phases.make_phases(config, shapes(8), row)
