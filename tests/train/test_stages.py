"""Any recipe and any row of stages from a configuration: each goes on where the one before ended, killed or not."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from tests.train.conftest import TINY, Cli, assert_same_end
from train import compress
from train.common import stages
from train.common.errors import UserError
from train.common.loop import read_metrics
from train.common.rounding import Grids
from train.common.stages import Net, Stage
from train.common.step import Functions
from train.configs import default

ROW = """
import jaxcomp as jc
from train.common.rounding import Grids
from train.common.stages import Stage


def stages(config):
    def pruned(steps):
        return jc.partition([(".*kernel", jc.prune.magnitude(0.4))])

    return [
        Stage("prune", 0.5, 5e-3, pruned),
        Stage("cut", 0.5, 5e-3, macs=0.7),
        Stage("quantize", 0.5, 1e-4, grids=Grids(4, 4)),
        Stage("tune", 0.5, 1e-5),
    ]


def post_training(infer, variables, images):
    return jc.posttrain.ptq(infer, variables, images, jc.rewrite.Scheme(8))
"""
RECIPE = """
import jaxcomp as jc


def recipe(config, steps):
    return jc.partition([(".*kernel", jc.prune.prune(0.5, "magnitude", regrow="rigl", every=4))])
"""


def test_the_usual_stages_are_what_the_fields_say() -> None:
    config = default.get_config()
    (one,) = stages.stages(config, {})
    assert (one.name, one.epochs, one.macs, one.grids) == ("student", 20.0, 1.0, None)
    config.student.input_bits, config.student.bits = 4, 4
    first, second = stages.stages(config, {})
    assert (first.grids, second.grids, second.epochs, second.recipe) == (None, Grids(4, 4), 5.0, None)
    config.student.sparsity = 0.0
    (one,) = stages.stages(config, {})
    assert (one.grids, one.recipe) == (Grids(4, 4), None)
    mine = jc.identity()
    (first, _) = stages.stages(config, {"recipe": lambda config, steps: mine if steps == 7 else None})
    assert first.recipe is not None
    assert first.recipe(7) is mine


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], "must return a list of train.common.stages.Stage"),
        ([Stage("a", 1, 1), Stage("a", 1, 1)], r"stages need names of their own, .* got \['a', 'a'\]"),
        ([Stage("teacher", 1, 1)], "and not 'teacher'"),
        ([Stage("a/b", 1, 1)], "of letters and digits"),
        ([Stage("a", 1, 1), Stage("a-best", 1, 1)], "no -best last"),  # where the best of the other are
        ([Stage("12", 1, 1)], "a letter first"),  # a checkpoint's name
        ([Stage("a", 1, 1, grids=Grids(4, 4)), Stage("b", 1, 1, macs=0.5)], "stage 'b' cuts or rounds a network that"),
    ],
)
def test_stages_that_cannot_be_are_told(row: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        stages.stages(default.get_config(), {"stages": lambda config: row})


def test_what_is_kept_as_best_is_as_sparse_as_was_asked() -> None:
    config = default.get_config()
    config.best_from = 0.5
    with pytest.raises(UserError, match=r"best_from=0\.5 may keep .*prune_until=0\.6, .* give 0\.6 or more"):
        stages.stages(config, {})
    config.best_from = 0.6
    assert len(stages.stages(config, {})) == 1


def test_short_numbers_are_of_no_integer_network() -> None:
    config = default.get_config()
    config.student.others_bits = 16
    assert len(stages.stages(config, {})) == 1
    for own in ({}, {"stages": lambda config: [Stage("a", 1, 1, grids=Grids(4, 4))]}):
        config.student.input_bits = 0 if own else 4
        with pytest.raises(UserError, match="others_bits=16 is of networks whose weights alone are rounded"):
            stages.stages(config, own)


def test_short_numbers_are_those_that_no_recipe_rounds() -> None:
    leaves = {"kernel": jnp.full((2, 2), 1 / 3), "bias": jnp.full(2, 1 / 3), "scale": jnp.full(2, 1 / 3)}
    tree = {"params": leaves, "batch_stats": {"mean": jnp.full(2, -1 / 3), "count": jnp.array(257)}}
    found = compress.halved(tree, {"params/scale"})
    assert jax.tree.map(lambda new, old: bool((new == old).all()), found, tree) == {
        "params": {"kernel": True, "bias": False, "scale": True},
        "batch_stats": {"mean": False, "count": True},
    }
    assert found["params"]["bias"][0] == jnp.bfloat16(1 / 3)


def test_pmap_trains_no_stage_that_is_rewritten() -> None:
    row = {"stages": lambda config: [Stage("a", 1, 1), Stage("b", 1, 1, macs=0.5)]}
    with pytest.raises(UserError, match=r"stage 'b' rewrites .* leave out --parallel"):
        stages.stages(default.get_config(), row, "pmap")
    assert len(stages.stages(default.get_config(), row)) == 2


def test_what_is_zero_in_a_kernel_stays_zero() -> None:
    params = {"a": {"kernel": jnp.array([[0.0, 1.0], [-2.0, 0.0]]), "bias": jnp.zeros(2)}, "b": jnp.zeros((2, 2))}
    net = Net(Functions(lambda v, x: x), Functions(lambda v, x: x), {"params": params})
    for recipe in (None, lambda steps: jc.partition([(".*kernel", jc.quant.fake(4, axis=-1))])):
        own = stages.recipe_of(Stage("a", 1, 1, recipe), net, 10, first=False)
        state = own.init(params)
        moved = jax.tree.map(lambda leaf: leaf + 0.25, params)
        view = own.apply(moved, own.update(moved, state, 1, grads=moved))
        np.testing.assert_array_equal(view["a"]["kernel"] == 0, params["a"]["kernel"] == 0)
        assert (view["a"]["bias"] == 0.25).all()
    dense = net._replace(variables={"params": jax.tree.map(jnp.ones_like, params)})
    assert not jax.tree.leaves(stages.recipe_of(Stage("a", 1, 1), dense, 10, first=False).init(params))
    fresh = stages.recipe_of(Stage("a", 1, 1), net, 10, first=True)  # zeros of an initializer are trained
    assert not jax.tree.leaves(fresh.init(params))


@pytest.mark.exhaustive
def test_a_row_of_stages_ends_alike_whatever_was_lost(cli: Cli, tmp_path: Path) -> None:
    config, workdir = tmp_path / "row.py", tmp_path / "run"
    config.write_text(TINY + ROW)
    arguments = f"--config={config}", f"--workdir={workdir}", "--config.ema=0.9", "--config.best_from=0.5"
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["compressed_macs"] <= 0.71 * summary["teacher_macs"]
    assert summary["sparsity"] > 0.3
    assert 0 <= summary["posttrained_accuracy"] <= 1
    records = [record for record in read_metrics(workdir / "metrics.jsonl") if record["phase"] != "teacher"]
    assert list(dict.fromkeys(record["phase"] for record in records)) == ["prune", "cut", "quantize", "tune"]
    assert all(record["sparsity"] > 0.3 for record in records)  # what is pruned stays so
    whole = shutil.copytree(workdir, tmp_path / "whole")
    for phase in ("cut", "quantize", "tune"):
        for name in (phase, f"{phase}-best"):
            shutil.rmtree(workdir / "checkpoints" / name, ignore_errors=True)
    for name in ("summary.json", "report.html", "model.jcz"):
        (workdir / name).unlink()
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert_same_end(workdir, whole, phase="tune")
    config.write_text(TINY + ROW + "\n# other\n")
    other = cli(*arguments)
    assert (other.returncode, "functions: 'stages, post_training of a file of" in other.stderr) == (1, True)


@pytest.mark.exhaustive
def test_a_recipe_of_one_s_own_and_integers_in_training(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "mine.py"
    config.write_text(TINY + RECIPE)
    more = ["--config.student.input_bits=4", "--config.student.epochs=1.5", "--config.precision=bfloat16"]
    more += ["--config.warmup=0.5", "--config.clip=1.0", "--config.accumulate=2", "--config.label_smoothing=0.1"]
    done = cli(f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.optimizer=lamb", *more)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0.45 < summary["sparsity"] < 0.6
    assert jc.pack.inspect(tmp_path / "run" / "model.jcz").rewrites
