"""Puts the images of class folders into a few array_record files, which are read many times as fast as many small ones.

    python -m train.prepare photographs/ prepared/ [--side 256] [--shards 16]

Then ``--dataset=./prepared``. Split and labels are those that ``--dataset=./photographs`` has; classes.txt names them.
A file that is there already is left as it is, so that a call that was stopped is gone on with; prepared.json says of
what the files are made, and a call for others is refused.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcomp.core.files import write_atomically
from train.common import options, sealed
from train.common.checks import warn
from train.common.errors import UserError, exit_status, first_line
from train.common.image_folder import GRAY, class_folders, count_records, write_records
from train.common.pictures import decoded

QUALITY = 95
"""Of the JPEGs that smaller images are stored as."""


def smaller(file: bytes, side: int) -> bytes:
    """The image with its shorter side brought down to so many pixels; one that is no larger as it is.

    Raises:
      Exception: whatever the decoder says of a file that is torn.
    """
    from PIL import Image

    gray = Image.open(io.BytesIO(file)).mode in GRAY
    image = decoded(file, 1 if gray else 3)
    image.load()
    scale = side / min(image.size) if side else 1.0
    if scale >= 1:
        return file
    size = tuple(max(1, round(own * scale)) for own in image.size)
    packed = io.BytesIO()
    image.resize((size[0], size[1]), Image.Resampling.BICUBIC).save(packed, "jpeg", quality=QUALITY)
    return packed.getvalue()


def prepare(source: Path, target: Path, side: int, shards: int, corrupt: str) -> dict[str, Any]:
    """Writes ``train-*.array_record``, ``test-*.array_record`` and ``classes.txt``.

    Args:
      source: folder of class folders.
      target: folder of the files.
      side: pixels of the shorter side, at most; 0: files stay as they are.
      shards: files of the training split; the test split has one for every ten.
      corrupt: ``"stop"`` at a training image that cannot be decoded, or ``"skip"`` it. One to be scored always stops.

    Returns:
      How many images each split has.

    Raises:
      UserError: for a folder of another layout, an image that cannot be decoded, or files of another call.
    """
    classes, splits = class_folders(str(source), source)
    target.mkdir(parents=True, exist_ok=True)
    images = sealed.digest([[split, found.digest] for split, found in splits.items()])
    _claim(target, {"images": images, "side": side, "shards": shards, "corrupt": corrupt})
    held: dict[str, int] = {}
    for split, found in splits.items():
        parts = max(1, shards if split == "train" else -(-shards // 10))
        # in an order of its own, so that a part is not of a few classes
        order = np.random.default_rng(0).permutation(len(found.labels))

        def pairs(part: np.ndarray, found: Any = found, split: str = split) -> Iterator[tuple[bytes, int]]:
            for number in part.tolist():
                try:
                    file = smaller(found.fetch([number])[0], side)
                except Exception as error:  # whatever the decoder says
                    told = f"{found.names(number)} cannot be read ({first_line(error)})"
                    if split == "test" or corrupt == "stop":
                        skip = ", or give --corrupt skip" if split == "train" else ": all that is scored must be sound"
                        raise UserError(f"{told}: mend it or leave it out{skip}") from error
                    warn(f"{told} and is left out")
                    continue
                yield file, int(found.labels[number])

        for number, part in enumerate(np.array_split(order, parts)):
            path = target / f"{split}-{number:05}-of-{parts:05}.array_record"
            if not path.exists():
                write_records(path, pairs(part))
        held[split] = count_records(target.glob(f"{split}-*-of-{parts:05}.array_record"))
    write_atomically(target / "classes.txt", "".join(f"{name}\n" for name in classes).encode())
    return held


def _claim(target: Path, ours: dict[str, Any]) -> None:
    """Writes down of what the files are made; those that are there must be of the same."""
    path = target / "prepared.json"
    theirs = sealed.read(path, "and the array_record files beside it; all are made anew.") if path.exists() else {}
    known = {**theirs, "corrupt": ours["corrupt"]} if theirs.get("corrupt") == "stop" else theirs  # none was left out
    if any(target.glob("*.array_record")) and known != ours:
        differ = [
            f"{name}: {theirs.get(name)!r} there, {ours[name]!r} now" for name in ours if known.get(name) != ours[name]
        ]
        raise UserError(
            f"{target} holds files that were made otherwise:\n  " + "\n  ".join(differ) + "\nName another folder, or "
            "delete that one to make them anew."
        )
    if theirs != ours:
        sealed.write(path, ours)


def main() -> int:
    """Prepares the folders of the command line."""
    parser = options.parser(__doc__)
    parser.add_argument("source", type=Path, help="folder of class folders, or of train/ and test/ of such")
    parser.add_argument("target", type=Path, help="folder for the files")
    parser.add_argument("--side", type=int, default=0, help="pixels of the shorter side, at most; 0: as they are")
    parser.add_argument("--shards", type=int, default=16, help="files of the training split")
    parser.add_argument("--corrupt", choices=("stop", "skip"), default="stop", help="at a training image that is torn")
    args = parser.parse_args()

    def run() -> None:
        held = prepare(args.source, args.target, args.side, args.shards, args.corrupt)
        print(f"{args.target}: {', '.join(f'{count:,} images of {split}' for split, count in held.items())}")

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
