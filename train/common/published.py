"""What scripts on published networks share: options, the network and its images, the table of a run folder."""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

import jaxcomp as jc
from train import evaluate
from train.common import command_line, data, sealed
from train.common.errors import GO_ON, UserError
from train.common.step import Classifier, Model, Variables
from train.common.workdir import open_existing
from train.models import pretrained

REMADE = f"{GO_ON}, and it is made again."
SHIFT, FLIP = 4, True  # black borders, mirror images: other images would move the batch statistics


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network, and on which images."""
    add = parser.add_argument
    add("--weights", required=True, type=Path, help="a published CIFAR ResNet, .npz of PyTorch's or Keras's names")
    add("--dataset", default="cifar10", help="its data set")
    add("--data_dir", help="folder of prepared TFDS data (default: TFDS_DATA_DIR, or TFDS's own)")
    add("--batch_size", type=int, default=128, help="images in a batch")
    add("--seed", type=int, default=0, help="of the order and augmentation of images")


def add_held_out(parser: argparse.ArgumentParser) -> None:
    """The option by which settings are compared without a look at the test set."""
    what = "score on so many training images kept from all else, not on the test set"
    parser.add_argument("--held_out", type=int, default=0, help=what)


class Published(NamedTuple):
    """A published network and its data set.

    Attributes:
      model: its functions.
      variables: parameters and statistics, NumPy arrays.
      dataset: what it was trained on; of ``--held_out``, the images that are scored stand in for the test set.
      name: of its model, a key of ``train.models.MODELS``.
      options: what its module was made with.
    """

    model: Classifier
    variables: Variables
    dataset: data.Dataset
    name: str
    options: dict[str, int]

    @classmethod
    def read(cls, path: Path, dataset: data.Dataset) -> "Published":
        """The network of a file: :func:`train.models.pretrained.load`.

        Raises:
          UserError: if the file cannot be used, or the network is not for so many classes.
        """
        found = pretrained.load(path)
        if found.classes != dataset.classes:
            raise UserError(f"{path} tells {found.classes} classes apart, and {dataset.name} has {dataset.classes}")
        model = Classifier(found.module, found.mean, found.std)
        return cls(model, found.variables, dataset, found.name, found.options)

    @property
    def about(self) -> dict[str, Any]:
        """What an artefact says of it."""
        own = {"model": self.name, "options": self.options, "classes": self.dataset.classes}
        return {**own, "mean": self.model.mean, "std": self.model.std, "dataset": self.dataset.name}

    def take(self, args: argparse.Namespace, count: int, later: int = 0) -> list[Any]:
        """So many training batches, in the order of ``--seed``, or of one so much later."""
        return list(itertools.islice(batches(self.dataset.train, args.batch_size, args.seed + later), count))

    def accuracy(self, variables: Variables) -> float:
        """Of the network with these variables, on the test images."""
        return evaluate.score(self.model, variables, self.dataset.test)["accuracy"]


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


def resumed(args: argparse.Namespace, *free: str) -> tuple[Path, dict[str, Any]]:
    """The table that the run folder holds, ``{"rows": []}`` at first, and its path: :func:`claim`."""
    claim(args, *free)
    path = args.workdir / "summary.json"
    return path, sealed.read(path, REMADE) if path.exists() else {"rows": []}


def batches(split: data.Split, size: int, seed: int) -> Iterator[Any]:
    """Training batches without end, augmented as the published networks' were."""
    for step in itertools.count():
        yield data.pad(data.train_batch(split, step, size, seed, shift=SHIFT, flip=FLIP), 1)


def recalibrated(model: Model, variables: Variables, some: Iterable[Any]) -> Variables:
    """The variables with batch statistics averaged over batches."""
    params = {"params": variables["params"]}
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    fresh = jc.posttrain.recalibrate(_update(model), stats, ((params, batch) for batch in some))
    return jax.device_get(params | fresh)


@functools.lru_cache
def _update(model: Model) -> Callable[[Any, Any], Any]:
    """One function for all parameters of a model, so that it is compiled once."""
    return lambda stats, given: model.train_logits({**given[0], **stats}, given[1])[1]
