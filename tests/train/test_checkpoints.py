"""Checkpoints come back bit by bit, or say that they are damaged, and which folder to delete."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.checkpoints import Checkpoints, digest
from train.errors import UserError


def tree(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "step": jnp.int32(seed),
        "params": {"kernel": jnp.asarray(rng.normal(size=(50, 40)), jnp.float32), "half": jnp.ones(3, jnp.bfloat16)},
        "masks": (jnp.asarray(rng.random((5, 3)) < 0.5), ()),
        "stats": {},
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 1 and 2."""
    checkpoints = Checkpoints(tmp_path / "phase")
    assert checkpoints.latest() is None
    for step in (1, 2):
        checkpoints.save(step, tree(step), seconds=10.0 * step)
    checkpoints.close()
    return tmp_path / "phase"


def assert_restores(folder: Path, step: int) -> None:
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() == step
    found, seconds = checkpoints.restore(tree(0))
    assert seconds == 10.0 * step
    assert jax.tree.structure(found) == jax.tree.structure(tree(step))
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(tree(step)), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert digest(found) == digest(tree(step)) != digest(tree(0))


def test_the_newest_comes_back(saved: Path) -> None:
    assert_restores(saved, 2)


def test_two_are_kept_and_none_is_written_twice(saved: Path) -> None:
    checkpoints = Checkpoints(saved)
    checkpoints.save(2, tree(0), seconds=0.0)
    checkpoints.save(3, tree(3), seconds=30.0)
    checkpoints.close()
    assert sorted(path.name for path in saved.iterdir()) == ["2", "3"]
    assert_restores(saved, 3)
    shutil.rmtree(saved / "3")
    assert_restores(saved, 2)


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "arrays cut short": lambda folder: cut(largest(folder / "state")),
    "arrays altered": lambda folder: flip_a_bit(largest(folder / "state")),
    "arrays gone": lambda folder: shutil.rmtree(folder / "state"),
    "digest cut short": lambda folder: cut(folder / "meta" / "metadata"),
    "digest altered": lambda folder: flip_a_bit(folder / "meta" / "metadata"),
    "digest gone": lambda folder: shutil.rmtree(folder / "meta"),
    "another tree": lambda folder: shutil.copytree(saved_elsewhere(folder), folder / "state", dirs_exist_ok=True),
}


def saved_elsewhere(folder: Path) -> Path:
    other = folder.parent.parent / "other"
    checkpoints = Checkpoints(other)
    checkpoints.save(2, {**tree(2), "step": jnp.int32(7)}, seconds=20.0)
    checkpoints.close()
    shutil.rmtree(folder / "state")
    return other / "2" / "state"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_the_older_one_still_serves(saved: Path, damage: str) -> None:
    DAMAGES[damage](saved / "2")
    checkpoints = Checkpoints(saved)
    with pytest.raises(UserError) as caught:
        checkpoints.restore(tree(0))
    checkpoints.close()
    message = str(caught.value)
    assert message.startswith(f"checkpoint {saved / '2'} is damaged (")
    assert message.endswith("Delete that folder to continue from step 1.")
    assert (saved / "2").is_dir()  # nothing is deleted unasked
    shutil.rmtree(saved / "2")
    assert_restores(saved, 1)


def test_the_only_one_is_damaged(saved: Path) -> None:
    shutil.rmtree(saved / "1")
    DAMAGES["arrays altered"](saved / "2")
    with pytest.raises(UserError, match="Delete that folder to start this phase again"):
        Checkpoints(saved).restore(tree(0))


def test_a_save_that_was_cut_off_does_not_count(saved: Path) -> None:
    shutil.copytree(saved / "2", saved / "3.orbax-checkpoint-tmp-0")
    assert_restores(saved, 2)


@pytest.mark.parametrize("change", ["value", "dtype", "shape", "order"])
def test_the_digest_tells_any_change(change: str) -> None:
    a, b = np.arange(6, dtype=np.int32), np.zeros(2, np.float32)
    changed = {
        "value": [a + (np.arange(6) == 5), b],
        "dtype": [a.view(np.float32), b],
        "shape": [a.reshape(2, 3), b],
        "order": [b, a],
    }[change]
    assert digest([a, b]) == digest([jnp.asarray(a), b])
    assert digest(changed) != digest([a, b])
