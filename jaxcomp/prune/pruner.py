"""The pruner: score x pattern x distribution x schedule x regrowth, each a value."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jaxcomp.core import leaves
from jaxcomp.core.called import printed
from jaxcomp.core.counts import fraction_at
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import by_mask
from jaxcomp.core.meshes import spread_like
from jaxcomp.core.paths import named_leaves, path_string
from jaxcomp.core.rules import ByPath, assign
from jaxcomp.core.stacked import Axes
from jaxcomp.core.stacked import stacked as layer_by_layer
from jaxcomp.core.types import Compressor, Note, Params, Schedule, Skipped, State, Step
from jaxcomp.prune import selection
from jaxcomp.prune.distributions import DISTRIBUTIONS, Distribution, Layer, Shares, by_layer
from jaxcomp.prune.patterns import Pattern, fitted, unstructured
from jaxcomp.prune.ranking import Ranking
from jaxcomp.prune.regrow import REGROW, Regrow
from jaxcomp.prune.schedules import check_never_falls, check_rising
from jaxcomp.prune.scores import SCORES, Evidence, Score

_Named = dict[str, Any]
COMPLEX = "complex: scores of gradients do not rank it"


class Scored(NamedTuple):
    """State of a pruner whose score remembers; of any other it is the mask alone.

    Attributes:
      mask: a boolean mask per tensor, True = kept.
      memory: the score's memory of each tensor.
    """

    mask: State
    memory: State


@printed
def prune(
    sparsity: float | Schedule,
    score: str | Score = "magnitude",
    *,
    pattern: Pattern | None = None,
    distribution: str | Distribution | ByPath[float | Schedule] = "uniform",
    regrow: str | Regrow | None = None,
    nested: bool = False,
    dense: Sequence[str] = (),
    minimum: int = 0,
    every: int = 1,
    stacked: Axes | None = None,
) -> Compressor:
    r"""Prunes the weights that score least: :math:`w \mapsto w \cdot [s(w) \ge t]`.

    Complex weights are ranked by their modulus, and left as they are where a score or regrowth follows gradients.
    Thresholds are exact: what is asked for is reached to the unit, ties are broken in favor of the first, and neither
    devices nor compilers change a mask. Step 0 starts afresh. Gradients that are not finite, as loss scaling has them
    now and then, are left out: where one is, a score's memory stays; without memory, and with regrowth, masks stand.

    Static random: ``prune(0.9, "random")``. SET: ``prune(0.9, regrow="set", distribution="erk", every=100)``; RigL:
    ``regrow="rigl"``. Iterative: ``nested=True`` with a rising schedule. N:M: ``prune(0.5, pattern=nm(2, 4))``.
    AC/DC: :func:`jaxcomp.prune.alternating` as the schedule. Cubic: ``optax.polynomial_schedule(0.0, 0.9, 3, steps)``.

    Args:
      sparsity: the fraction of zeros, in [0, 1), or an optax schedule of it (step -> fraction). With a pattern of
        larger units, of units.
      score: ``"magnitude"``, ``"random"``, ``"taylor"``, ``"snip"``, ``"movement"``, ``"fisher"``, ``"wanda"``, or a
        :class:`jaxcomp.prune.Score`. Those from taylor to fisher need ``update(..., grads=)``, wanda ``statistics=``;
        until then every weight is kept.
      pattern: of :mod:`jaxcomp.prune.patterns`: ``nm(2, 4)``, ``blocks((8, 128))``, ``kernels()``, ``filters()``; every
        weight by itself unless given.
      distribution: ``"uniform"``, ``"global"``, ``"erk"``, ``"lamp"``, ``"per_output"``, a
        :class:`jaxcomp.prune.Distribution`; for layers with a sparsity of their own ``[(regex, sparsity), ...]`` or
        ``{path: sparsity}``.
      regrow: ``"set"``, ``"rigl"`` or a :class:`jaxcomp.prune.Regrow`: kept units are exchanged for others; of N:M
        within each group.
      nested: pruned units stay pruned, whatever their score becomes. The sparsity must not fall.
      dense: regexes of paths that are kept whole; they count in the total of a distribution that has one.
      minimum: units that every layer keeps at least. At 0 a global distribution may empty a layer, which
        :func:`jaxcomp.measure.summary` remarks on.
      every: units are ranked anew at steps 0, every, 2 every, ...; a score gathers at each. (:func:`jaxcomp.every`
        would have it pause, too.)
      stacked: the axis that counts layers, each a tensor of its own for all of the above: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is a boolean mask per tensor, True = kept; with a score that remembers, a
      :class:`Scored`.

    Raises:
      ArgumentError: for a sparsity outside [0, 1), or one that the pattern cannot express (with the nearest that it
        can); an unknown name; a schedule that falls where masks nest; from its functions, for a tensor that the pattern
        does not fit, a total that the distribution cannot reach, or missing gradients or statistics, each with its
        path. A schedule's value is checked where it is concrete and clipped where it is traced.
      RuleError: from its functions, for a rule that matches nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> pruner = prune(0.5, "taylor", distribution="global")
      >>> params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}
      >>> grads = {"a": jnp.array([9.0, 0.0]), "b": jnp.array([-1.0, 1.0])}
      >>> state = pruner.update(params, pruner.init(params), 1, grads=grads)
      >>> pruner.apply(params, state)
      {'a': Array([1., 0.], dtype=float32), 'b': Array([0., 4.], dtype=float32)}

    Reference: Hoefler et al., Sparsity in deep learning, 2021 (a survey of all these choices).
    """
    recipe = _Pruner(
        asked=fraction_at(sparsity, "sparsity", "zeros"),
        constant=None if callable(sparsity) else float(sparsity),
        score=_named("score", score, SCORES, Score),
        pattern=unstructured() if pattern is None else pattern,
        distribution=by_layer(distribution)
        if isinstance(distribution, Mapping | list)
        else _named("distribution", distribution, DISTRIBUTIONS, Distribution),
        regrow=None if regrow is None else _named("regrow", regrow, REGROW, Regrow),
        nested=nested,
        dense=(dense,) if isinstance(dense, str) else tuple(dense),
        minimum=minimum,
        every=every,
    )
    _check(recipe, sparsity)
    pruner = Compressor(
        lambda params: recipe.update(params, None, 0), recipe.update, _apply_masks, recipe.describe, _kept
    )
    return layer_by_layer(stacked, pruner)


def _apply_masks(params: Params, state: State) -> Params:
    """Zeroes the parameters where a mask is False.

    Args:
      params: parameters.
      state: of a pruner, which holds masks.
    """
    return leaves.map_view(_masked, params, _masks(state), functools.partial(_masked, xp=np))


def _masked(leaf: Any, kept: Any, xp: Any = jnp) -> Any:
    if leaf.shape != kept.shape:
        raise ArgumentError(
            f"a parameter of shape {leaf.shape} has a mask of shape {kept.shape}: the state was made for "
            "other parameters; make one for these, compressor.init(params)"
        )
    return xp.where(kept, leaf, xp.zeros_like(leaf))


def _kept(params: Params, state: State) -> Params:
    return by_mask(params, _masks(state))


def _masks(state: State) -> State:
    return state.mask if isinstance(state, Scored) else state


class _Pruner(NamedTuple):
    """The parts of a pruner, and what they make together."""

    asked: Any
    constant: float | None
    score: Score
    pattern: Pattern
    distribution: Distribution
    regrow: Regrow | None
    nested: bool
    dense: tuple[str, ...]
    minimum: int
    every: int

    def update(
        self,
        params: Params,
        state: State,
        step: Step,
        *,
        grads: Params | None = None,
        statistics: Any = None,
        **extra: Any,
    ) -> State:
        """The state at a step; without an old one, that of ``init``."""
        del extra
        known = self._evidence(params, step, grads, statistics)
        layers = self.layers({path: own.weight for path, own in known.items()})
        blind = (
            state is None and bool(self.score.needs) and (grads if self.score.needs == "grads" else statistics) is None
        )
        old, memory = self._unpacked(params, state, known, blind)
        if not blind:
            memory = {path: self._gathered(memory[path], own) for path, own in known.items()}
        if not blind or self.regrow:
            old = self._due(step, state is None, old, lambda: self._followed(known, memory, layers, old, step))
        mask = _by_leaf(old, params)
        return mask if self.score.init is None else Scored(mask, _by_leaf(memory, params))

    def describe(self, params: Params, state: State, step: Step) -> dict[str, Note]:
        """Returns the sparsity asked of each tensor, and remarks."""
        del state
        named = named_leaves(params)
        layers = self.layers({path: leaf for path, leaf in named.items() if self._ranks(leaf)})
        asked = float(self.asked(step))
        shares = self.distribution.share(self.asked(step), layers, int(step))
        notes = {
            path: Note(skipped=COMPLEX if leaves.is_inexact(leaf) else leaves.NOT_REAL) for path, leaf in named.items()
        }
        for layer, group in zip(layers, shares.group, strict=True):
            rate = asked if self.distribution.compete else _rate(asked, int(shares.keep[group]), layer)
            note = Note(sparsity=rate, remark=layer.remark or None)
            notes[layer.path] = Note(skipped="it is kept dense") if layer.is_dense else note
        return notes

    def _ranks(self, leaf: Any) -> bool:
        """Whether a leaf's weights have a rank: complex ones by their modulus, of which no gradient is."""
        follows = self.regrow is not None or self.score.needs == "grads"
        return leaves.is_real(leaf) if follows else leaves.is_inexact(leaf)

    def _evidence(self, params: Params, step: Step, grads: Params | None, statistics: Any) -> dict[str, Evidence]:
        """The evidence on every tensor that is ranked, by path."""
        slopes = {} if grads is None else named_leaves(grads)
        given = {} if statistics is None else named_leaves(statistics)
        return {
            path: Evidence(
                path, jnp.abs(leaf) if jnp.iscomplexobj(leaf) else leaf, step, slopes.get(path), given.get(path)
            )
            for path, leaf in named_leaves(params).items()
            if self._ranks(leaf)
        }

    def layers(self, named: Mapping[str, Any]) -> list[Layer]:
        """The tensors as a distribution sees them."""
        kept_whole = assign(self.dense, named)
        found = []
        for path, leaf in named.items():
            shape = tuple(leaf.shape)
            if path in kept_whole:
                units = self.pattern.of(path).units(shape)
                size = leaf.size if isinstance(units, Skipped) else units.number
                found.append(Layer(path, shape, size, size, is_dense=True))
                continue
            number, least, remark = fitted(self.pattern, path, shape)
            least = min(number, max(least, self.minimum))
            densest, whole = self.pattern.densest, self.pattern.pool is not None
            found.append(Layer(path, shape, number, least, densest, whole, remark=remark))
        return found

    def _unpacked(
        self, params: Params, state: State, known: Mapping[str, Evidence], blind: bool
    ) -> tuple[_Named, _Named]:
        """The old masks and memories by path; at first masks only if they count: each shape would be a program."""
        if state is None:
            init, counts = self.score.init or (lambda weight: ()), blind or self.regrow or self.nested
            ones = {path: jnp.ones_like(own.weight, bool) for path, own in known.items()} if counts else {}
            return ones, {path: init(own.weight) for path, own in known.items()}
        mask, memory = (state.mask, state.memory) if isinstance(state, Scored) else (state, None)
        masks = leaves.named_states(params, mask)
        held = {} if memory is None else leaves.named_states(params, memory)
        weights = {path: own.weight for path, own in known.items()}
        old = {path: spread_like(masks[path], weight) for path, weight in weights.items()}
        return old, {path: spread_like(held[path], weight) if held else () for path, weight in weights.items()}

    def _gathered(self, memory: Any, own: Evidence) -> Any:
        """The score's memory after an update: the old one, where the gradient is not finite."""
        new = self.score.gather(memory, own)
        if self.score.init is None or own.grad is None:
            return new
        finite = jnp.isfinite(spread_like(own.grad, own.weight))

        def mended(new: Array, held: Array, begun: Array) -> Array:
            usable = finite if new.shape == finite.shape else jnp.all(finite)
            return jnp.where(usable, new, jnp.where(jnp.asarray(own.step) == 0, begun, held))

        return jax.tree.map(mended, new, memory, self.score.init(own.weight))

    def _due(self, step: Step, first: bool, old: _Named, ranked: Any) -> _Named:
        """New masks at every so many steps, the old ones between."""
        if first or self.every == 1:
            return ranked()
        if isinstance(step, jax.core.Tracer):
            return lax.cond(step % self.every == 0, ranked, lambda: old)
        return ranked() if int(step) % self.every == 0 else old

    def _followed(
        self, known: Mapping[str, Evidence], memory: _Named, layers: Sequence[Layer], old: _Named, step: Step
    ) -> _Named:
        """The masks that the scores ask for; the old ones where gradients that they follow at once are not finite."""
        masks = self._ranked(known, memory, layers, old, step)
        slopes = [own.grad for own in known.values() if own.grad is not None]
        if not slopes or not (self.regrow or (self.score.needs == "grads" and self.score.init is None)):
            return masks
        usable = selection.all_finite(slopes)
        if self.regrow:
            usable |= jnp.asarray(step) == 0  # it begins without gradients
        return {path: jnp.where(usable, mask, old[path]) for path, mask in masks.items()}

    def _ranked(
        self, known: Mapping[str, Evidence], memory: _Named, layers: Sequence[Layer], old: _Named, step: Step
    ) -> _Named:
        """The masks that the scores ask for."""
        asked = self.asked(step)
        if self.nested:
            check_rising(self.asked, step, asked)
        if self.pattern.densest is not None:
            _check_densest(self.pattern, asked, step)
        shares = self.distribution.share(asked, layers, step)
        free = [i for i, layer in enumerate(layers) if layer.units and layer.least < layer.units]
        ranked = {layers[i].path for i in free}
        masks = {path: jnp.ones_like(own.weight, bool) for path, own in known.items() if path not in ranked}
        if not free:
            return masks
        own = [known[layers[i].path] for i in free]
        floors = [layers[i].least for i in free]
        shares = _without_dense(shares, layers, free)
        held, before = [memory[e.path] for e in own], [old[e.path] for e in own if e.path in old]
        ranking = Ranking(self.score, self.pattern, self.distribution, self.regrow, self.nested)
        for evidence, units in zip(own, ranking.kept(own, held, before, shares, floors), strict=True):
            spread = self.pattern.of(evidence.path).spread
            mask = spread_like(spread(units, evidence.weight.shape), evidence.weight)
            masks[evidence.path] = mask & (old[evidence.path] | (jnp.asarray(step) == 0)) if self.nested else mask
        return masks


def _by_leaf(named: _Named, params: Params) -> State:
    """A tree of what is known of each leaf, ``optax.MaskedNode()`` in place of the others."""
    return jax.tree_util.tree_map_with_path(lambda path, _: named.get(path_string(path), optax.MaskedNode()), params)


def _without_dense(shares: Shares, layers: Sequence[Layer], free: Sequence[int]) -> Shares:
    """The shares of layers that are not kept whole, their groups numbered anew."""
    keep, bound = list(shares.keep), [i for i in range(len(layers)) if i not in set(free)]
    for i in bound:
        count = keep[shares.group[i]]
        units = layers[i].units
        keep[shares.group[i]] = count - units
    groups = sorted({shares.group[i] for i in free})
    return Shares([keep[g] for g in groups], [groups.index(shares.group[i]) for i in free])


def _rate(asked: float, keep: int, layer: Layer) -> float:
    """The sparsity to report for a layer: what was asked, or, if that would keep another count, what was reached."""
    if not layer.units or keep == max(layer.units - round(asked * layer.units), min(layer.units, 1)):
        return asked
    return 1 - keep / layer.units


def _named(what: str, given: Any, known: Mapping[str, Any], kind: type) -> Any:
    """A part of a pruner, made of its name."""
    if isinstance(given, kind):
        return given
    if not isinstance(given, str) or given not in known:
        raise ArgumentError(
            f"{what} must be one of {', '.join(known)}, or a value of jaxcomp.prune.{kind.__name__}; got {given!r}"
        )
    return known[given]()


def _check(recipe: _Pruner, sparsity: float | Schedule) -> None:
    """Refuses parts that do not go together."""
    if not isinstance(recipe.pattern, Pattern):
        raise ArgumentError(
            f"pattern must be one of jaxcomp.prune: nm(2, 4), blocks((8, 128)), ...; got {recipe.pattern!r}"
        )
    if not isinstance(recipe.every, int) or recipe.every < 1 or recipe.minimum < 0:
        raise ArgumentError(
            f"every= needs at least 1 step and minimum= at least 0 units, got {recipe.every!r} and {recipe.minimum!r}"
        )
    if recipe.regrow and recipe.nested:
        raise ArgumentError(f"{recipe.regrow.name} exchanges units, which nested masks cannot: leave one of them out")
    if recipe.nested and callable(sparsity):
        check_never_falls(sparsity)
    if recipe.constant is not None and recipe.pattern.densest is not None:
        _check_densest(recipe.pattern, recipe.constant)


def _check_densest(pattern: Pattern, asked: Any, step: Step | None = None) -> None:
    """Refuses a sparsity that N:M cannot express; a schedule may pass through any on its way there."""
    densest = pattern.densest
    assert densest is not None
    if isinstance(asked, jax.core.Tracer):
        return
    excess = float(asked) - densest
    if excess > 1e-6 or (step is None and excess < -1e-6):
        at = "" if step is None else f" at step {step}"
        raise ArgumentError(
            f"{pattern.name} has a sparsity of {densest:g}, and cannot express {float(asked):g}{at}; the nearest that "
            f"a pattern can are {pattern.nearest(float(asked))}"
        )
