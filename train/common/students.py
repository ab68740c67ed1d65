"""Students of ``train.distil``: fresh, a published network, or the teacher itself; pruned, or of fewer channels."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxcomp as jc
from train import models
from train.common import data
from train.common.errors import UserError
from train.common.published import Published
from train.common.step import Functions, Variables, network


class Student(NamedTuple):
    """A student of a teacher.

    Attributes:
      model: its functions.
      start: ``seed -> variables`` to begin with.
      recipe: whose view is trained: masks that stand, or the variables themselves.
      about: what an artifact says of it; None where no module makes it: of fewer channels than one.
    """

    model: Functions
    start: Callable[[int], Variables]
    recipe: jc.Compressor
    about: dict[str, Any] | None


def check(args: argparse.Namespace) -> None:
    """Refuses options out of range, or of which one needs another.

    Raises:
      UserError: it names the option.
    """
    for name, value in (("zeros", args.zeros), ("macs", args.macs)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"--{name} must be a fraction in (0, 1), got {value}")
        if value is not None and args.start is None:
            raise UserError(f"--{name} takes from a trained network: name it with --start FILE, or --start teacher")


def create(teacher: Published, args: argparse.Namespace, cut: Callable[[Published], Any]) -> Student:
    """The student of the options ``student``, ``start``, ``zeros`` and ``macs``.

    Args:
      teacher: the network that it may begin as.
      args: the options.
      cut: takes channels from a network: ``network -> (functions, variables, ...)``.
    """
    if args.start is None:
        return _fresh(args.student, teacher.dataset)
    own = teacher if args.start == "teacher" else Published.read(Path(args.start), teacher.dataset)
    recipe = jc.identity() if args.zeros is None else masked(args.zeros)
    if args.macs is None:
        return Student(own.model, lambda seed: own.variables, recipe, own.about)
    model, variables, *_ = cut(own)
    return Student(model, lambda seed: variables, recipe, None)


def _fresh(name: str, dataset: data.Dataset) -> Student:
    mean, std = dataset.moments()
    model = network(models.create(name, dataset.classes), mean, std)
    about = {"model": name, "options": {}, "classes": dataset.classes, "mean": mean, "std": std}

    def start(seed: int) -> Variables:
        return jax.jit(model.init)(jax.random.key(seed), dataset.train.images[:1])

    return Student(model, start, jc.identity(), {**about, "dataset": dataset.name})


def masked(zeros: float) -> jc.Compressor:
    """Prunes the smallest weights of all kernels together; the masks stand."""
    recipe = jc.partition([(".*/kernel", jc.prune.magnitude(zeros, scope="global"))])
    return recipe._replace(update=lambda params, state, step, **extra: state)
