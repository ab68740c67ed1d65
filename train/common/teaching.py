"""How the main job's student learns from its teacher, as the configuration's ``distill`` says."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxcomp as jc
from train.common import data, distillation, labels, views
from train.common.errors import UserError
from train.common.step import Functions, Objective
from train.tasks import named

Teacher = tuple[Functions, Any]
"""Functions, and variables; where nothing is computed, shapes do."""


def methods(config: ConfigDict) -> list[distillation.Method]:
    """The ways to distill that are named.

    Raises:
      UserError: for a name that is none.
    """
    how = config.distill
    soft = distillation.soft_targets(how.temperature, how.alpha, named(config.task))
    return distillation.named(how.method, {**distillation.METHODS, "soft targets": soft})


def objective(
    config: ConfigDict, teacher: Teacher, student: tuple[Functions, Functions], variables: Any, dataset: data.Dataset
) -> Objective:
    """The loss of the student.

    Args:
      config: the job's configuration.
      teacher: of which features are found.
      student: its functions on one device, by which its features are found, and on all.
      variables: of the student; shapes do.
      dataset: what is learned.

    Raises:
      UserError: for a method, or taps, that the networks cannot have.
    """
    ways, stored = methods(config), config.distill.k if config.distill.views else None
    taps: distillation.Taps = {}
    try:
        if any(method.reads in ("features", "map") for method in ways):
            some: Any = data.pad({"image": dataset.train.images[:2], "label": dataset.train.labels[:2]}, 1)
            taps = distillation.find_taps(*teacher, student[0], variables, some, config.distill.taps)
        return distillation.taught(student[1], teacher[0], ways, taps, stored, dataset.task)
    except (UserError, jc.errors.ArgumentError) as error:
        raise UserError(f"--config.distill.method={config.distill.method!r}: {error}") from error


def check(config: ConfigDict, teacher: Functions, student: Functions, dataset: data.Dataset, view: Any) -> None:
    """Makes of shapes alone what the student will learn by.

    Raises:
      UserError: for a method, taps, labels, views or answers that cannot be.
    """
    theirs, ours = (jax.eval_shape(x.init, jax.random.key(0), dataset.train.images[:1]) for x in (teacher, student))
    objective(config, (teacher, theirs), (student, student), ours, dataset)
    reads_classes = any(method.classes for method in methods(config))
    if reads_classes and (config.label_smoothing or (view is not None and views.mixes(view, dataset))):
        raise UserError(
            f"--config.distill.method={config.distill.method!r} reads labels as numbers of classes: leave out "
            "--config.label_smoothing, mixup and cutmix"
        )
    if config.distill.views:
        labels.header(dataset, "", view, seed=0, views=config.distill.views, k=config.distill.k)


def answers(
    config: ConfigDict, teacher: Teacher, dataset: data.Dataset, view: Any, seed: int, workdir: Path
) -> labels.Labels:
    """The teacher's answers to ``distill.views`` of each image, kept in the run folder.

    Args:
      config: the job's configuration.
      teacher: who answers.
      dataset: whose training images are shown.
      view: what is done to them; None: nothing.
      seed: of the views.
      workdir: the run folder.
    """
    about = [config.teacher.model, config.teacher.options.to_dict(), *dataset.moments()]
    who = labels.teacher_digest(teacher[1], about)
    header = labels.header(dataset, who, view, seed=seed, views=config.distill.views, k=config.distill.k)
    return labels.kept(workdir / "labels", *teacher, dataset, view, header)
