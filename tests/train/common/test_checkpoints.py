"""Checkpoints come back bit by bit, or say that they are damaged, and which folder to delete."""

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.common.checkpoints import Checkpoints, digest
from train.common.errors import UserError


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
    found, seconds = checkpoints.restore(jax.eval_shape(lambda: tree(0)))  # no host has all of what several hold
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


def test_later_ones_are_forgotten(saved: Path) -> None:
    checkpoints = Checkpoints(saved)
    checkpoints.forget(after=1)
    assert checkpoints.latest() == 1
    checkpoints.close()
    assert_restores(saved, 1)


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


def flips(path: Path, every: int) -> Iterator[None]:
    """One bit of every so many bytes of a file flipped in turn; in the end it is as it was."""
    content = path.read_bytes()
    for at in range(0, len(content), every):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        yield
    path.write_bytes(content)


def test_an_altered_byte_of_any_file_is_told(saved: Path) -> None:
    checkpoints = Checkpoints(saved)
    for path in [path for path in (saved / "2").rglob("*") if path.is_file()]:
        for _ in flips(path, every=61):
            with pytest.raises(UserError, match=f"^checkpoint {saved / '2'} is damaged "):
                checkpoints.restore(tree(0))
    checkpoints.close()
    assert_restores(saved, 2)


def test_without_checksums_a_digest_tells(saved: Path) -> None:
    """A kill may come between the checkpoint and the checksums of its files."""
    (saved / "2" / "checksums.json").unlink()
    assert_restores(saved, 2)
    checkpoints = Checkpoints(saved)
    for _ in flips(saved / "2" / "meta" / "metadata", every=5):
        with pytest.raises(UserError, match=f"^checkpoint {saved / '2'} is damaged "):
            checkpoints.restore(tree(0))


def test_a_checkpoint_under_another_name_is_told(saved: Path) -> None:
    (saved / "2" / "checksums.json").unlink()
    (saved / "2").rename(saved / "7")
    with pytest.raises(UserError, match=r"checkpoint .*7 is damaged \(it is that of step 2\)"):
        Checkpoints(saved).restore(tree(0))


def test_what_it_belongs_to_is_told_from_another(tmp_path: Path) -> None:
    ours = {"data set": "a", "configuration": "b"}
    checkpoints = Checkpoints(tmp_path / "phase", ours)
    checkpoints.records.append({"phase": "teacher", "step": 1, "loss": 0.1})
    checkpoints.save(1, tree(1), seconds=10.0)
    checkpoints.close()
    for of in (ours, {"data set": "a"}, {}):
        again = Checkpoints(tmp_path / "phase", of)
        again.restore(tree(0))
        assert again.records == [{"phase": "teacher", "step": 1, "loss": 0.1}]
    for of, words in (({"data set": "c"}, "another data set"), ({"configuration": "c"}, "another configuration")):
        with pytest.raises(UserError, match=f"^checkpoint {tmp_path / 'phase' / '1'} was saved with {words} than is"):
            Checkpoints(tmp_path / "phase", ours | of).restore(tree(0))


FULL = {
    "the system": OSError(errno.ENOSPC, "No space left on device"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "TensorStore": ValueError('RESOURCE_EXHAUSTED: Error writing "a/0": [OS error 28: No space left on device]\nmore'),
}


@pytest.mark.parametrize("words", FULL)
def test_a_full_disk_is_one_sentence_and_what_was_saved_is_kept(
    saved: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(saved)

    def fail(step: int, **_: Any) -> None:
        (saved / f"{step}.orbax-checkpoint-tmp").mkdir()
        raise FULL[words]

    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(UserError) as caught:
        checkpoints.save(3, tree(3), seconds=30.0)
    assert str(caught.value) == (
        f"the disk is full, or the quota used up: checkpoint {saved / '3'} could not be written; the checkpoint of "
        "step 2 is kept. Free some space, then run the same command to continue."
    )
    assert sorted(path.name for path in saved.iterdir()) == ["1", "2"]  # the torn one takes no space


def test_a_write_that_the_system_refuses(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    checkpoints = Checkpoints(tmp_path / "phase")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(UserError, match=r"could not be written; no checkpoint was saved before\. Free some"):
            checkpoints.save(1, tree(1), seconds=10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "phase").iterdir())


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
