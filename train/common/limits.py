"""Limits of a configuration's values, told without JAX."""

from typing import Any

from ml_collections import ConfigDict

from train.common.errors import UserError

TASKS = ("classification", "segmentation", "detection")
"""Their names, as :mod:`train.tasks` has them, which is not imported here."""

OPTIMIZERS = (
    *("adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw", "lamb", "lars", "lion"),
    *("nadam", "nadamw", "novograd", "radam", "rmsprop", "sgd", "yogi"),
)
"""Their names in optax, which is not imported here."""


def check(config: ConfigDict, parallel: str) -> None:
    """Checks the values of a job's fields.

    Args:
      config: the job's configuration.
      parallel: of the command line.

    Raises:
      UserError: for a value out of its range; the field and what it takes are named.
    """
    _need(config.task in TASKS, "task", config.task, f"one of {', '.join(TASKS)}")
    student = config.student
    _need(0 <= student.sparsity < 1, "student.sparsity", student.sparsity, "a fraction of zeros in [0, 1)")
    _need(2 <= student.bits <= 8, "student.bits", student.bits, "an integer from 2 to 8")
    _need(student.scope in ("layer", "global"), "student.scope", student.scope, "'layer' or 'global'")
    _need(0 < student.prune_until <= 1, "student.prune_until", student.prune_until, "a fraction in (0, 1]")
    _need(student.prune_every >= 1, "student.prune_every", student.prune_every, "1 step or more")
    _need(
        student.input_bits == 0 or 2 <= student.input_bits <= 8,
        "student.input_bits",
        student.input_bits,
        "0, or 2 to 8",
    )
    _need(student.others_bits in (16, 32), "student.others_bits", student.others_bits, "16 or 32")
    _need(0 < student.macs <= 1, "student.macs", student.macs, "a fraction in (0, 1]")
    cut = student.macs < 1
    if student.input_bits and parallel == "pmap":
        raise UserError("--config.student.input_bits rewrites what is trained by jit over a mesh: leave out --parallel")
    _need(not cut or student.from_teacher, "student.from_teacher", student.from_teacher, "True where channels are cut")
    if cut and parallel == "pmap":
        raise UserError("--config.student.macs cuts a network that is trained by jit over a mesh: leave out --parallel")
    distill = config.distill
    _need(distill.temperature > 0, "distill.temperature", distill.temperature, "a number above 0")
    _need(0 <= distill.alpha <= 1, "distill.alpha", distill.alpha, "a fraction in [0, 1]")
    _need(distill.views >= 0, "distill.views", distill.views, "a number of views, or 0")
    _need(distill.k >= 2, "distill.k", distill.k, "2 classes or more")
    _need(not distill.views or config.task == TASKS[0], "distill.views", distill.views, f"0 in {config.task}")
    if distill.views and (config.shift or config.flip):
        same = f"pad_crop({config.shift}){', flip()' if config.flip else ''}"
        raise UserError(
            "--config.distill.views keeps answers to views that are shown again, which those of --config.shift and "
            f"--config.flip are not: give --config.shift=0 --config.flip=False --config.augment='{same}'"
        )
    crop = config.random_crop
    _need(not (distill.views and crop), "random_crop", crop, "0 with distill.views, whose answers are to whole squares")
    _need(config.batch_size >= 1, "batch_size", config.batch_size, "1 image or more")
    _need(0 <= config.random_crop < 1, "random_crop", config.random_crop, "a fraction in [0, 1)")
    _need(config.corrupt in ("stop", "skip"), "corrupt", config.corrupt, "'stop' or 'skip'")
    _need(config.record_every > 0, "record_every", config.record_every, "a number of epochs above 0")
    _need(config.optimizer in OPTIMIZERS, "optimizer", config.optimizer, f"one of optax's {', '.join(OPTIMIZERS)}")
    _need(config.precision in ("float32", "bfloat16"), "precision", config.precision, "'float32' or 'bfloat16'")
    _need(config.accumulate >= 1, "accumulate", config.accumulate, "1 part or more")
    _need(0 <= config.ema < 1, "ema", config.ema, "a fraction in [0, 1)")
    _need(0 <= config.label_smoothing < 1, "label_smoothing", config.label_smoothing, "a fraction in [0, 1)")
    _need(not config.label_smoothing or config.task == TASKS[0], "label_smoothing", config.label_smoothing, "0 here")
    _need(config.evaluate_every >= 1, "evaluate_every", config.evaluate_every, "1 record or more")
    _need(0 < config.best_from <= 1, "best_from", config.best_from, "a fraction in (0, 1]")
    for field in ("seed", "image_size", "shift", "weight_decay", "warmup", "clip"):
        _need(config[field] >= 0, field, config[field], "0 or more")
    repeats = student.repeats
    _need(not distill.views or repeats == 1, "student.repeats", repeats, "1 with distill.views, a view of each")
    _need(1 <= repeats <= config.batch_size, "student.repeats", repeats, "1 view or more, up to batch_size")
    for phase in ("teacher", "student"):
        for field in ("epochs", "learning_rate"):
            _need(config[phase][field] > 0, f"{phase}.{field}", config[phase][field], "a number above 0")


def _need(holds: bool, field: str, value: Any, what: str) -> None:
    if not holds:
        raise UserError(f"--config.{field} must be {what}, got {value!r}")
