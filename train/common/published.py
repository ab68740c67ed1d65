"""Shared parts of scripts on published networks: options, network and images, a short training, the run folder."""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

import jaxcomp as jc
from train import models
from train.common import command_line, data, distillation, labels, options
from train.common.described import described_model
from train.common.errors import UserError
from train.common.loop import Phase, fit
from train.common.parallel import data_parallel
from train.common.scoring import score
from train.common.step import Functions, Variables, init_state, make_step, network
from train.common.workdir import open_existing
from train.models import pretrained

SHIFT, FLIP = 4, True  # black borders, mirror images: other images would move the batch statistics


def add_options(parser: argparse.ArgumentParser, *, workdir: str, held_out: bool = False) -> None:
    """The options that say which network, on which images, and where; ``--held_out`` where settings are compared."""
    options.add(parser, weights=options.REQUIRED, dataset="cifar10", data_dir=None, batch_size=128, seed=0)
    options.add(parser, workdir=Path(workdir), **({"held_out": 0} if held_out else {}))
    parser.epilog = pretrained.HOW_TO_EXPORT


def add_training(parser: argparse.ArgumentParser, *, learning_rate: float, weight_decay: float, every: int) -> None:
    """The options of :func:`distilled`: how long, how fast, and from what it learns."""
    options.add(parser, steps=200, learning_rate=learning_rate, weight_decay=weight_decay)
    options.add(parser, temperature=4.0, alpha=0.9, record_every=every, record_test=1000)


class Published(NamedTuple):
    """A published network and its data set.

    Attributes:
      model: its functions.
      variables: parameters and statistics, NumPy arrays.
      dataset: what it was trained on; of ``--held_out``, the images that are scored stand in for the test set.
      name: of its model, a key of ``train.models.MODELS``.
      options: what its module was made with.
      mean, std: ``[channels]``, by which its images are normalized.
    """

    model: Functions
    variables: Variables
    dataset: data.Dataset
    name: str
    options: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, path: Path, dataset: data.Dataset) -> "Published":
        """The network of a file: :func:`train.models.pretrained.load`, or ``.jcz`` that a script here has written.

        Raises:
          UserError: if the file cannot be used, or the network is not for so many classes.
        """
        found = _artifact(path) if path.suffix == ".jcz" else pretrained.load(path)
        if found.classes != dataset.classes:
            raise UserError(f"{path} tells {found.classes} classes apart, and {dataset.name} has {dataset.classes}")
        model = network(found.module, found.mean, found.std)
        return cls(model, found.variables, dataset, found.name, found.options, found.mean, found.std)

    @property
    def digest(self) -> str:
        """By which answers of this network are known (``train.common.labels``)."""
        return labels.teacher_digest(self.variables, [self.name, self.options, self.mean, self.std])

    @property
    def about(self) -> dict[str, Any]:
        """The artifact's description of it."""
        own = {"model": self.name, "options": self.options, "classes": self.dataset.classes}
        return {**own, "mean": self.mean, "std": self.std, "dataset": self.dataset.name}

    def take(self, args: argparse.Namespace, count: int, later: int = 0) -> list[Any]:
        """So many training batches, in the order of ``--seed``, or of one so much later."""
        return list(itertools.islice(batches(self.dataset.train, args.batch_size, args.seed + later), count))

    def accuracy(self, variables: Variables) -> float:
        """Scores the network with these variables on the test images."""
        return score(self.model, variables, self.dataset.test)["accuracy"]


def _artifact(path: Path) -> pretrained.Pretrained:
    variables, metadata = jc.pack.load(path)
    about = described_model(str(path), metadata)
    name, options, moments = about["model"], about["options"], (tuple(about["mean"]), tuple(about["std"]))
    module = models.create(name, about["classes"], options)
    return pretrained.Pretrained(name, module, variables, about["classes"], options, *moments)


def load(args: argparse.Namespace) -> Published:
    """The network and the data set of the options.

    Raises:
      UserError: if they cannot be used or do not fit each other, or if no image is left of ``--held_out``.
    """
    dataset = data.load(args.dataset, args.data_dir).read_all()
    if kept := getattr(args, "held_out", 0):
        if not 0 < kept < len(dataset.train):
            raise UserError(f"--held_out must leave some of the {len(dataset.train):,} training images, got {kept}")
        dataset = dataclasses.replace(dataset, read=functools.partial(_held_out, dataset, kept))
    return Published.read(args.weights, dataset)


def _held_out(dataset: data.Dataset, kept: int, split: str) -> data.Split:
    part = slice(kept) if split == "test" else slice(kept, None)
    return data.Split(dataset.train.images[part], dataset.train.labels[part])


def fixed(args: argparse.Namespace, *free: str) -> dict[str, str]:
    """The options that a run folder holds fast: all but those named, where it is, and where the data are."""
    return {name: str(value) for name, value in vars(args).items() if name not in (*free, "workdir", "data_dir")}


def reopen(args: argparse.Namespace, *free: str) -> None:
    """Takes a run folder that is there already, before anything is read that takes time: as :func:`claim`."""
    open_existing(args.workdir, fixed(args, *free))


def claim(args: argparse.Namespace, *free: str) -> None:
    """Takes the run folder for these options, or goes on in it.

    Args:
      args: the options.
      *free: those that may change from one run in the folder to the next.

    Raises:
      UserError: if the folder holds a run of other options; they are listed.
    """
    command_line.claim(args.workdir, ConfigDict(fixed(args, *free)))


def batches(split: data.Split, size: int, seed: int) -> Iterator[Any]:
    """Training batches without end, augmented as the published networks' were."""
    for step in itertools.count():
        batch = data.train_batch(split, step, size, seed, shift=SHIFT, flip=FLIP)
        yield data.pad({name: batch[name] for name in ("image", "label")}, 1)


def recalibrated(model: Functions, variables: Variables, some: Iterable[Any]) -> Variables:
    """The variables with batch statistics averaged over batches."""
    params = {"params": variables["params"]}
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    fresh = jc.posttrain.recalibrate(_update(model), stats, ((params, batch) for batch in some))
    return jax.device_get(params | fresh)


@functools.lru_cache
def _update(model: Functions) -> Callable[[Any, Any], Any]:
    """One function for all parameters of a model, so that it is compiled once."""
    return lambda stats, given: model.learn({**given[0], **stats}, given[1])[1]


def distilled(
    whole: Published,
    model: Functions,
    variables: Variables,
    args: argparse.Namespace,
    *,
    name: str,
    later: int,
    kernels: Callable[[Any], Any] | None = None,
    rate: Callable[[Any], Any] | float | None = None,
    recipe: jc.Compressor | None = None,
    masks: Any = None,
) -> Variables:
    """The variables after ``--steps`` of distillation from the whole network and from the labels.

    Args:
      whole: the teacher, and what is learned.
      model: what is trained.
      variables: where it begins.
      args: with the options of :func:`add_training`, ``batch_size``, ``seed`` and ``workdir``.
      name: of the phase, under which checkpoints are held; a run that was stopped goes on.
      later: how much later the seed of the images' order and augmentation is than ``--seed``.
      kernels: parameters -> which of them decay; None: those of more than one axis.
      rate: the learning rate; None: a cosine after a warm-up, to 0.
      recipe: whose view is trained; None: the variables themselves.
      masks: the recipe's state to begin with; None: its own.

    Returns:
      Parameters, as the recipe shows them, and statistics; on the device.
    """
    if rate is None:
        rate = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, max(1, args.steps // 20), args.steps)
    recipe = recipe or jc.identity()
    decay = optax.add_decayed_weights(args.weight_decay, mask=kernels or matrices)
    optimizer = optax.chain(decay, optax.sgd(rate, momentum=0.9, nesterov=True))
    every = max(1, min(args.record_every, args.steps))
    how = distillation.soft_targets(args.temperature, args.alpha)
    step = make_step(distillation.taught(model, whole.model, [how]), recipe, optimizer, record_every=every)
    start = init_state(variables, recipe, optimizer)
    if masks is not None:
        start = start._replace(compressor=masks)
    phase = Phase(name, args.steps, every, args.batch_size, args.seed + later, SHIFT, FLIP)
    test = whole.dataset.test
    some = data.Split(test.images[: args.record_test], test.labels[: args.record_test])

    def shown(state: Any) -> Variables:
        return {"params": recipe.apply(state.params, state.compressor), **state.stats}

    def scored(state: Any) -> dict[str, float]:
        return {"test_accuracy": score(model, shown(state), some)["accuracy"]} if len(some) else {}

    parallel = data_parallel("jit")
    state, _ = fit(phase, step, start, whole.variables, whole.dataset, parallel, args.workdir, scored)
    return shown(state)


def matrices(params: Any) -> Any:
    """Which parameters are kernels: those of more than one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
