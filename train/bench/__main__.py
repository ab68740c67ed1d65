"""``python -m train.bench`` and a benchmark's name: tables, and a JSON file in ``bench/``."""

import argparse
from pathlib import Path

from train.bench import (
    augment,
    classifiers,
    distil,
    input,
    pack,
    planning,
    prune,
    qat,
    quant,
    reconstruct,
    rewrite,
    scale,
    step,
    taps,
    threshold,
)


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m train.bench", description=__doc__)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    for module in (
        step,
        qat,
        threshold,
        prune,
        quant,
        rewrite,
        planning,
        reconstruct,
        scale,
        augment,
        classifiers,
        distil,
        input,
        pack,
        taps,
    ):
        name = module.__name__.rpartition(".")[2]
        options = benchmarks.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        options.add_argument("--rounds", type=int, default=7, help="how often everything is timed")
        options.add_argument("--out", type=Path, default=Path("bench"), help="folder of the JSON file")
        module.add_options(options)
        options.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    main()
