"""The options that scripts share: a name, a type and a line of help each; a script says which it has, with defaults."""

import argparse
import re
from pathlib import Path
from typing import Any

from train.common import mirror
from train.common.errors import explained

REQUIRED = object()
"""The default of an option that has to be given."""


def _run_folder(path: str) -> Path:
    """The folder to work in; what is wrong with an address is told as of any other value that is no good."""
    try:
        return mirror.folder(path)
    except Exception as error:
        if (words := explained(error)) is None:
            raise
        raise argparse.ArgumentTypeError(words) from error


SHARED: dict[str, tuple[Any, str]] = {
    "weights": (
        Path,
        "published weights of a CIFAR ResNet, an .npz (made as said below), or a .jcz of train.distil",
    ),
    "dataset": (str, "'digits' (embedded), or the name of an image set of TensorFlow Datasets"),
    "data_dir": (str, "folder of prepared TFDS data, or gs://bucket/tfds; without it TFDS_DATA_DIR, or TFDS's own"),
    "model": (str, "the package.module:function that made the network, if one did: it is run"),
    "workdir": (_run_folder, "run folder, or gs://bucket/run; a run found there goes on"),
    "batch_size": (int, "images in a batch"),
    "seed": (int, "of the order and augmentation of images"),
    "maximum": (float, "no layer, or group of channels, loses more than this fraction"),
    "held_out": (int, "score on so many training images kept from all else; 0: on the test set"),
    "steps": (int, "of training; 0: none"),
    "learning_rate": (float, "of training, at its peak"),
    "weight_decay": (float, "of kernels"),
    "temperature": (float, "of the teacher's softened outputs"),
    "alpha": (float, "weight of the teacher's outputs beside the labels"),
    "augment": (str, "what of jc.augment training images go through: 'pad_crop(4), flip()'"),
    "views": (int, "of each image, of which the teacher's answers are kept, so that it runs once"),
    "k": (int, "classes that an answer keeps"),
    "view_seed": (int, "of the views whose answers are kept"),
    "record_every": (int, "steps from one record and checkpoint to the next"),
    "record_test": (int, "test images that records are scored on; 0: none"),
    "calibration": (int, "training batches from which ranges, moments or scores are taken"),
    "recalibration": (int, "training batches over which batch norm is averaged anew"),
    "places": (int, "positions of each convolution's result that count; 0: all"),
    "damping": (float, "of the layers' second moments"),
}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Fills paragraphs to the terminal's width, leaves commands as they are, and says defaults that are not None."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(
            part if part.startswith("    ") else fill(part, width, indent)
            for part in text.replace("``", "'").split("\n\n")
        )

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.nargs == 0 else super()._get_help_string(action)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line that is described by a module's docstring, which holds its command, ``python -m MODULE``."""
    command = re.search(r"python -m [\w.]+", doc or "")
    return argparse.ArgumentParser(prog=command and command[0], description=doc, formatter_class=_Help)


def add(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Adds shared options, each with its default; :data:`REQUIRED` for those that have none.

    Example:
      >>> command = parser("Prunes.")
      >>> add(command, seed=0, weights=REQUIRED)
      >>> command.parse_args(["--weights", "a.npz"]).weights.name
      'a.npz'
    """
    for name, default in defaults.items():
        kind, what = SHARED[name]
        given: dict[str, Any] = {"required": True} if default is REQUIRED else {"default": default}
        parser.add_argument(f"--{name}", type=kind, help=what, **given)
