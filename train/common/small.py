"""A network made small as a file without training: folded, and rounded or shared as far as a setting says."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.posttrain.fit_bytes import first_rate, within
from train.common import data
from train.common.errors import UserError

PROBES = 2
"""Random directions, for each batch, in which gradients of the results are taken."""


Bits = int | Sequence[tuple[str, int]]
"""Of all weights, or rules ``[(regex, bits), ...]``."""


class Setting(NamedTuple):
    """How small a file is to be: one of these.

    Attributes:
      bytes: that it may take.
      rate: what a bit is worth, as of :func:`jaxcomp.posttrain.round_weights`.
      k: values that a layer shares.
    """

    bytes: int | None = None
    rate: float | None = None
    k: int | None = None

    @classmethod
    def of(cls, name: str) -> "Setting":
        """By its name.

        Raises:
          UserError: if it is none.

        Example:
          >>> Setting.of("rate3e-5")
          Setting(bytes=None, rate=3e-05, k=None)
        """
        found = re.fullmatch(r"(bytes|k)([1-9][0-9]*)|(rate)([0-9.]+(?:e-?[0-9]+)?)", name)
        if found is None:
            raise UserError(f"a setting is like bytes64000, rate3e-5 or k16; got {name!r}")
        kind, number = found[1] or found[3], found[2] or found[4]
        given: dict[str, Any] = {kind: float(number) if kind == "rate" else int(number)}
        return cls(**given)


class Small(NamedTuple):
    """A file's network.

    Attributes:
      params: of the folded function, as the file gives them back.
      notes: what the file codes them by.
      report: what became of each weight.
    """

    params: Any
    notes: Mapping[str, Any]
    report: Any


def unchanged(results: Any) -> Any:
    """What a network gives, as it is."""
    return results


class Smaller:
    """A network, folded, to be made small.

    Args:
      function: ``function(params, *inputs)``, for inference.
      params: its parameters.
      batches: calibration batches.
      about: what the file says of it.
      damping: of the layers' second moments.
      places: positions of each convolution's result that count; None: all.
      bits: of the grids that weights are rounded to by a rate: most of their codes are small, and take fewer.
      each_output: whether each output has a scale of its own, where a few weights are far larger than all others.
      others: 8: biases are on grids of 8 bits, one scale each; 16: all that is not rounded is as float16 holds it.
      counts: of the results, what their sensitivity is measured on, all numbers of it alike; None: of layers nothing is
        known but their own errors. Logits, not what saturates: a probability of almost 1 feels no small error of any
        weight, and large ones all the same.

    Attributes:
      infer: the folded function.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        params: Any,
        batches: list[Any],
        about: Mapping[str, Any],
        *,
        damping: float,
        places: int | None,
        bits: Bits = 6,
        each_output: bool = False,
        others: int = 8,
        counts: Callable[[Any], Any] | None = unchanged,
    ) -> None:
        self._about, self._batches, self._others_bits, self._counts = about, batches, others, counts
        rules = [(".*", bits)] if isinstance(bits, int) else bits
        axis: Any = "channel" if each_output else None
        self._scheme = [(which, jc.rewrite.Scheme(each, axis=axis, inputs=None)) for which, each in rules]
        example = batches[0] if isinstance(batches[0], tuple) else (batches[0],)
        self.infer, self._folded = jc.rewrite.fold_batch_norm(function, params, *example)
        self._options: dict[str, Any] = {"damping": damping, "places": places}

    @functools.cached_property
    def _felt(self) -> Any:
        """The results' sensitivity to each weight; None where it does not count."""
        counts, infer = self._counts, self.infer
        if counts is None:
            return None
        probes = (
            each
            for seed in range(PROBES)
            for each in jc.observe.output_gradients(
                lambda params, *inputs: counts(infer(params, *inputs)), self._folded, self._batches, seed
            )
        )
        return jc.observe.fisher_diagonal(probes)

    def __call__(self, setting: Setting, path: Path) -> Small:
        """The network at a setting, saved."""
        if setting.bytes is None:
            found = self._found(setting)
            self._save(found, path)
            return found
        sizes = {name: leaf.size for name, leaf in named_leaves(self._folded).items() if leaf.ndim > 1}
        first = first_rate(setting.bytes, sizes)
        solve = functools.partial(self._found, Setting())
        found = within(setting.bytes, first, solve, lambda each: self._save(each, path))
        self._save(found, path)
        return found

    def _found(self, setting: Setting, rate: float | None = None) -> Small:
        rate = setting.rate or rate
        if rate is None:
            assert setting.k is not None
            new: Any = jc.posttrain.share(
                self.infer, self._folded, self._batches, setting.k, fisher=self._felt, **self._options
            )
            notes: Mapping[str, Any] = {}
        else:
            given = self.infer, self._folded, self._batches, self._scheme
            new = jc.posttrain.round_weights(*given, rate=rate, fisher=self._felt, **self._options)
            notes = new.notes
        return self._stored(new, notes)

    def _stored(self, new: Any, notes: Mapping[str, Any]) -> Small:
        """The parameters as the file holds what is no weight."""
        if self._others_bits == 16:
            weights = {row.path for row in new.report.rows}
            others = {path: leaf for path, leaf in named_leaves(new.params).items() if path not in weights}
            half = {path: leaf.astype(np.float16).astype(leaf.dtype) for path, leaf in others.items()}
            return Small(replace_leaves(new.params, half), notes, new.report)
        biases = jc.partition([(".*bias", jc.quant.fake(8))])
        state = biases.init(new.params)
        told = {path: note for path, note in biases.describe(new.params, state, 0).items() if path.endswith("bias")}
        return Small(biases.apply(new.params, state), {**told, **notes}, new.report)

    def lost(self, small: Small, split: data.Split) -> float:
        """How far a classifier's answers are from the float network's, on some images: the mean divergence, in nats."""
        infer, total = jax.jit(self.infer), 0.0
        for batch in data.eval_batches(split, data.eval_size(split)):
            new, old = (infer(params, batch["image"]) for params in (small.params, self._folded))
            total += float(jc.distill.kl(new, old).sum())
        return total / len(split)

    def _save(self, small: Small, path: Path) -> int:
        return jc.rewrite.save(path, self.infer, small.params, notes=small.notes, metadata=self._about)
