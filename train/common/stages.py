"""The stages in which a student is compressed: what is rewritten before each is trained, and what it ships as."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from train.common.cutting import cut
from train.common.errors import UserError
from train.common.phases import make_recipe
from train.common.rounding import Grids, as_tree, rounded
from train.common.step import Batch, Functions, Variables
from train.tasks.task import Task

NAME = re.compile(r"[A-Za-z][\w-]*(?<!-best)")
"""Of a stage."""


class Stage(NamedTuple):
    """A training of the student, one in a row: it begins with what the one before ends with.

    Attributes:
      name: of its checkpoints and records.
      epochs: passes over the training images.
      learning_rate: at its peak.
      recipe: ``steps -> compressor`` of what is trained; None: nothing is compressed anew. Zeros of the stage before
        stay zeros either way.
      macs: fraction of the multiply-accumulates that is left, by cutting channels first.
      grids: weights and inputs are rounded from here on, to integers at the end; None: they are not.
    """

    name: str
    epochs: float
    learning_rate: float
    recipe: Callable[[int], jc.Compressor] | None = None
    macs: float = 1.0
    grids: Grids | None = None


class Net(NamedTuple):
    """A student between two stages.

    Attributes:
      model: its functions, as it is scored.
      spread: as it is trained, on all devices.
      variables: of both.
      rewritten: whether an artifact has to say how it was made of the module.
      integers: what makes the integer network of the variables, once they are rounded.
      before: the functions and the variables that were rounded.
    """

    model: Functions
    spread: Functions
    variables: Variables
    rewritten: bool = False
    integers: Any = None
    before: Functions | None = None

    def shipped(self, shown: Variables, images: Any) -> tuple[Functions, Variables]:
        """The parameters that are packed: of a network that was trained in integers, the integer network's."""
        if self.integers is None:
            return self.model, shown
        infer, packed = self.integers.quantized(as_tree(shown), images)
        return Functions(infer), packed

    def in_float(self, shown: Variables) -> tuple[Functions, Variables]:
        """The network whose weights and layers are counted."""
        if self.before is None:
            return self.model, shown
        return self.before, {**shown, "params": shown["params"]["weights"]}


def stages(config: ConfigDict, own: dict[str, Callable[..., Any]], parallel: str = "jit") -> list[Stage]:
    """The stages of a configuration.

    Args:
      config: the job's.
      own: the functions of its file: ``stages(config)``, or ``recipe(config, steps)`` for the first of the usual ones.
      parallel: of the command line.

    Raises:
      UserError: for stages that are no list of such, have one name, quantize twice, or rewrite what pmap trains; for a
        best state that may be of a sparsity below the one that is asked; for shorter numbers in an integer network.
    """
    found = (
        _usual(config, own.get("recipe", make_recipe)) if "stages" not in own else _own(own["stages"](config), parallel)
    )
    if config.student.others_bits < 32 and any(each.grids for each in found):
        raise UserError(
            "--config.student.others_bits=16 is of networks whose weights alone are rounded: leave it at 32"
        )
    return found


def _own(found: Any, parallel: str) -> list[Stage]:
    """Those of a configuration's own function."""
    if not isinstance(found, list | tuple) or not found or not all(isinstance(each, Stage) for each in found):
        raise UserError("stages(config) of the configuration must return a list of train.common.stages.Stage")
    names = [each.name for each in found]
    # numbers name checkpoints, and NAME-best is where the best of a stage are
    if len({*names, "teacher"}) != len(names) + 1 or not all(NAME.fullmatch(name) for name in names):
        raise UserError(
            "stages need names of their own, of letters and digits, a letter first and no -best last, and not "
            f"'teacher'; got {names}"
        )
    after = [each for number, each in enumerate(found) if any(before.grids for before in found[:number])]
    if late := [each.name for each in after if each.macs < 1 or each.grids]:
        raise UserError(f"stage {late[0]!r} cuts or rounds a network that is rounded already: do it before")
    if parallel == "pmap" and (anew := [each.name for each in found if each.macs < 1 or each.grids]):
        raise UserError(f"stage {anew[0]!r} rewrites what is trained by jit over a mesh: leave out --parallel")
    return list(found)


def _usual(config: ConfigDict, recipe: Callable[..., jc.Compressor]) -> list[Stage]:
    """One; two, where a pruned network is to compute in few bits."""
    student = config.student
    if recipe is make_recipe and student.sparsity and config.best_from < student.prune_until:
        raise UserError(
            f"--config.best_from={config.best_from} may keep a state from before --config.student.prune_until="
            f"{student.prune_until}, of fewer zeros than are asked: give {student.prune_until} or more"
        )
    grids = Grids(student.bits, student.input_bits) if student.input_bits else None

    def compressed(steps: int) -> jc.Compressor:
        return recipe(config, steps)

    first = Stage("student", student.epochs, student.learning_rate, compressed, student.macs)
    if grids is None:
        return [first]
    if not student.sparsity and recipe is make_recipe:
        return [first._replace(recipe=None, grids=grids)]
    return [first, Stage("rounded", student.epochs / 4, student.learning_rate / 10, grids=grids)]


def begin(stage: Stage, net: Net, some: Sequence[Batch], task: Task, path: Path) -> Net:
    """The network that a stage trains.

    Args:
      stage: what is rewritten.
      net: what the stage before ended with.
      some: training batches, by which channels are ranked and ranges begin.
      task: whose loss counts.
      path: a file that holds which channels are left.
    """
    if stage.macs < 1:
        learns = Functions(net.model.infer, net.spread.learn)
        model, variables = cut(learns, net.variables, list(some), task, stage.macs, path)
        net = Net(model, model, variables, rewritten=True)
    if stage.grids is not None:
        pruned = stage.grids.bits > 1
        model, variables, infer = rounded(net.model, net.variables, some, stage.grids, keep_zeros=pruned)
        net = Net(model, model, variables, True, infer, net.model)
    return net


def recipe_of(stage: Stage, net: Net, steps: int, *, first: bool) -> jc.Compressor:
    """The recipe of a stage; what a stage before has left zero in a kernel stays so.

    Before the first, zeros are nobody's choice: of an initializer, or the teacher's.
    """
    own = jc.identity() if stage.recipe is None else stage.recipe(steps)
    if first or net.integers is not None or not _pruned(net.variables["params"]):
        return own
    held = jc.prune.magnitude(0.0)._replace(
        init=lambda params: jax.tree.map(lambda leaf: (leaf != 0) | (leaf.ndim < 2), params),
        update=lambda params, state, step, **extra: state,
    )
    return held if stage.recipe is None else jc.chain(held, own)


def _pruned(params: Any) -> bool:
    """Whether a kernel has zeros and is not of zeros alone."""
    kernels = [np.asarray(leaf) for leaf in named_leaves(params).values() if leaf.ndim > 1]
    return any(kernel.any() and not kernel.all() for kernel in kernels)
