"""Memory: what was freed goes back to the system; what is held stays."""

from pathlib import Path

import numpy as np
import pytest

from jaxcomp.core import memory


def resident() -> int:
    """The pages that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(memory._trim() is None, reason="the C library gives back by itself, or has no function for it")
def test_what_was_freed_goes_back_and_what_is_held_stays() -> None:
    arrays = [np.full(12_000, i, np.float64) for i in range(400)]  # 96 kB each: of the heap, below what is mapped alone
    whole, held = resident(), arrays[::40]
    del arrays
    memory.give_back()
    assert whole - resident() > 0.8 * 400 * 96_000 / 4096
    for i, own in enumerate(held):
        assert (own == 40 * i).all()
