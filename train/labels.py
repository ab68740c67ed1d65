"""Asks a published CIFAR ResNet once what it makes of views of every training image, and keeps the likeliest classes.

    python -m train.labels --weights resnet56.npz --augment "pad_crop(4), flip()" [--views 4] [--data_dir DIR]

The file takes about 5 bytes a view of an image for ten classes. ``python -m train.distil --labels FOLDER``, with the
same teacher, data, augmentation, seed, views and k, learns from it, and is refused with others. A run that was killed
goes on when the same command is given again.
"""

import argparse
import sys
import time
from pathlib import Path

from train.common import data, labels, mirror, options, views
from train.common.errors import exit_status
from train.common.published import Published
from train.models import pretrained


def answers(whole: Published, args: argparse.Namespace, folder: Path) -> labels.Labels:
    """The answers of a network that the options ask for, made where they are missing."""
    view = views.read(args.augment, whole.dataset, "--augment")
    numbers = {"seed": args.view_seed, "views": args.views, "k": args.k}
    about = labels.header(whole.dataset, whole.digest, view, **numbers)
    return labels.kept(folder, whole.model, whole.variables, whole.dataset, view, about)


def job(args: argparse.Namespace) -> None:
    """Makes the file, and says what it holds."""
    began = time.monotonic()
    whole = Published.read(args.weights, data.load(args.dataset, args.data_dir).read_all())
    mirror.take(args.workdir)
    found = answers(whole, args, args.workdir)
    count, size = found.about["images"] * args.views, found.path.stat().st_size
    each, where = size / count, mirror.shown(str(found.path))
    print(f"{count:,} answers in {where}: {each:.2f} bytes each; {time.monotonic() - began:.0f} s")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    options.add(parser, weights=options.REQUIRED, dataset="cifar10", data_dir=None, workdir=Path("runs/labels"))
    options.add(parser, augment="pad_crop(4), flip()", views=4, k=5, view_seed=0)
    parser.epilog = pretrained.HOW_TO_EXPORT
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
