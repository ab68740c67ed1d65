"""Combinators: a recipe is a compressor built of compressors."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import lax

from jaxcomp.core import paths
from jaxcomp.core.called import checked, printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import both, everything
from jaxcomp.core.kept import kept as kept_by
from jaxcomp.core.rules import ByPath, by_rule, is_rules
from jaxcomp.core.straight_through import pass_through
from jaxcomp.core.types import Compressor, Note, Params, State, Step


@printed
def identity() -> Compressor:
    """Shows the parameters as they are: the unit of :func:`chain`, and a rule that leaves parameters alone.

    Example:
      >>> float(identity().apply({"w": 1.0}, ())["w"])
      1.0
    """
    return Compressor(
        lambda params: (), lambda params, state, step, **extra: (), lambda params, state: params, kept=everything
    )


@printed
def chain(*compressors: Compressor) -> Compressor:
    """Applies compressors in turn; each sees, and fits itself to, its predecessor's view.

    Args:
      *compressors: first to last.

    Returns:
      A compressor whose state is the tuple of theirs.

    Raises:
      ArgumentError: for what is no compressor.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> recipe = chain(jc.prune.magnitude(0.5), jc.quant.fake(bits=2))
      >>> params = {"w": jnp.array([0.1, 0.2, -3.0, 2.0])}
      >>> recipe.apply(params, recipe.init(params))["w"].tolist()
      [0.0, 0.0, -3.0, 3.0]
    """
    if compressors and isinstance(compressors[0], list):
        raise ArgumentError(
            "chain takes compressors one by one, chain(first, second), and got a list: write chain(*list)"
        )
    compressors = tuple(checked(each, f"chain: argument {i}") for i, each in enumerate(compressors))

    def init(params: Params) -> State:
        states: list[State] = []
        for compressor in compressors:
            params = compressors[len(states) - 1].apply(params, states[-1]) if states else params
            states.append(compressor.init(params))
        return tuple(states)

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        states: list[State] = []
        for compressor, old in zip(compressors, state, strict=True):
            params = compressors[len(states) - 1].apply(params, states[-1]) if states else params
            states.append(compressor.update(params, old, step, **extra))
        return tuple(states)

    def apply(params: Params, state: State) -> Params:
        for compressor, part in zip(compressors, state, strict=True):
            params = compressor.apply(params, part)
        return params

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        notes: dict[str, Note] = {}
        for compressor, part in zip(compressors, state, strict=True):
            for path, note in compressor.describe(params, part, step).items():
                notes[path] = note.over(notes.get(path, Note()))
            params = compressor.apply(params, part)
        return notes

    def kept(params: Params, state: State) -> Params:
        masks = everything(params)
        for compressor, part in zip(compressors, state, strict=True):
            masks = both(masks, kept_by(compressor, params, part))
            params = compressor.apply(params, part)
        return masks

    def bits(params: Params, state: State) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        for compressor, part in zip(compressors, state, strict=True):
            found |= _bits_of(compressor, params, part)
            params = compressor.apply(params, part)
        return found

    return Compressor(init, update, apply, describe, kept, bits if _some_rated(compressors) else None)


def _bits_of(compressor: Compressor, params: Params, state: State) -> dict[str, jax.Array]:
    return {} if compressor.bits is None else dict(compressor.bits(params, state))


def _some_rated(compressors: Sequence[Compressor]) -> bool:
    return any(compressor.bits is not None for compressor in compressors)


@printed
def partition(rules: ByPath[Compressor]) -> Compressor:
    """Gives each parameter to a compressor: to that of the first rule that matches its whole path, or by exact path.

    Paths are spelled alike for Linen, NNX and plain trees (``Conv_0/kernel``). Parameters that no rule matches
    come back untouched.

    Args:
      rules: ``[(regex, compressor), ...]``, in order of precedence, or ``{path: compressor}``.

    Returns:
      A compressor whose state is a tuple, one entry a rule. A rule's compressor sees its parameters as a flat
      ``{path: array}``, and its state is spelled so: ``state[0]["Conv_0/kernel"]``.

    Raises:
      ArgumentError: if a rule's compressor is none.
      RuleError: (from its functions) if a rule is no regular expression, matches no parameter, or is shadowed by
        earlier ones, and if a path of a mapping is none; the paths are listed.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> recipe = partition([(".*/kernel", jc.prune.magnitude(0.5))])
      >>> params = {"Dense_0": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([0.1, 0.2])}}
      >>> state = recipe.init(params)
      >>> state[0]["Dense_0/kernel"].tolist()
      [[False, True]]
    """
    if not isinstance(rules, Mapping) and not (isinstance(rules, list | tuple) and (not rules or is_rules(rules))):
        raise ArgumentError(
            f"partition takes [(regex, compressor), ...] or {{path: compressor}}, got {rules!r:.80}: "
            'jc.partition([(".*/kernel", compressor)])'
        )
    pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules)
    patterns = [pattern for pattern, _ in pairs]
    compressors = [checked(compressor, f"partition: {pattern!r}") for pattern, compressor in pairs]
    places: Any = {path: i for i, path in enumerate(patterns)}
    if not isinstance(rules, Mapping):
        places = [(pattern, i) for i, pattern in enumerate(patterns)]

    def split(params: Params) -> list[dict[str, Any]]:
        named = paths.named_leaves(params)
        parts: list[dict[str, Any]] = [{} for _ in compressors]
        for path, rule in by_rule(places, list(named)).items():
            parts[rule][path] = named[path]
        return parts

    def init(params: Params) -> State:
        return tuple(c.init(part) for c, part in zip(compressors, split(params), strict=True))

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        pieces = {name: split(tree) for name, tree in extra.items() if name == "grads" and tree is not None}
        return tuple(
            c.update(part, old, step, **{**extra, **{name: piece[i] for name, piece in pieces.items()}})
            for i, (c, part, old) in enumerate(zip(compressors, split(params), state, strict=True))
        )

    def apply(params: Params, state: State) -> Params:
        views: dict[str, Any] = {}
        for c, part, own in zip(compressors, split(params), state, strict=True):
            views |= c.apply(part, own)
        return paths.replace_leaves(params, views)

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        parts = split(params)
        notes = {path: Note(skipped="no rule matches it") for path in paths.named_leaves(params)}
        for c, part, own in zip(compressors, parts, state, strict=True):
            notes |= {path: Note(skipped="its rule changes nothing") for path in part} | dict(
                c.describe(part, own, step)
            )
        return notes

    def kept(params: Params, state: State) -> Params:
        masks: dict[str, Any] = {}
        for c, part, own in zip(compressors, split(params), state, strict=True):
            masks |= kept_by(c, part, own)
        return paths.replace_leaves(everything(params), masks)

    def bits(params: Params, state: State) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        for c, part, own in zip(compressors, split(params), state, strict=True):
            found |= _bits_of(c, part, own)
        return found

    return Compressor(init, update, apply, describe, kept, bits if _some_rated(compressors) else None)


@printed
def every(n: int, compressor: Compressor, *, begin: int = 0, end: int | None = None) -> Compressor:
    """Updates a compressor at step 0, at every n-th step from ``begin`` on and at ``end``; else its state stands.

    Args:
      n: steps from one update to the next, 1 or more.
      compressor: to update.
      begin: the first step that is counted from.
      end: the last step at which it is updated, a multiple or not, so that a schedule that ends there arrives; None:
        there is no last.

    Returns:
      A compressor with the same state.

    Raises:
      ArgumentError: if n is not a whole number of at least 1.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> sometimes = every(10, jc.prune.magnitude(0.5))
      >>> state = sometimes.init({"w": jnp.array([1.0, 2.0])})
      >>> sometimes.update({"w": jnp.array([3.0, 2.0])}, state, 5)["w"].tolist()
      [False, True]
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ArgumentError(f"every(n, ...) needs a whole number of steps of at least 1, got {n!r}")
    checked(compressor, "every: compressor")

    def is_due(step: Step) -> Any:
        since = step - begin
        counted = since % n == 0
        return (step == 0) | (since >= 0) & (counted if end is None else counted & (step <= end) | (step == end))

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        if not isinstance(step, jax.core.Tracer):  # a branch outside jit would be compiled anew each time
            return compressor.update(params, state, step, **extra) if is_due(step) else state
        return lax.cond(is_due(step), lambda: compressor.update(params, state, step, **extra), lambda: state)

    return compressor._replace(update=update)


@printed
def straight_through(compressor: Compressor) -> Compressor:
    """Gives a compressor's view the gradient of the identity: masked weights keep learning and may come back.

    Args:
      compressor: of the view.

    Returns:
      A compressor with the same state and values.

    Example:
      >>> import jax, jax.numpy as jnp, jaxcomp as jc
      >>> soft = straight_through(jc.prune.magnitude(0.5))
      >>> w = jnp.array([1.0, 2.0])
      >>> jax.grad(lambda w: soft.apply(w, soft.init(w)).sum())(w).tolist()
      [1.0, 1.0]

    Reference: Bengio et al., Estimating or propagating gradients through stochastic neurons, 2013.
    """

    checked(compressor, "straight_through: compressor")

    def apply(params: Params, state: State) -> Params:
        def estimate(leaf: Any, view: Any) -> Any:
            return view if view is leaf else pass_through(view, leaf)

        return jax.tree.map(estimate, params, compressor.apply(params, state))

    return compressor._replace(apply=apply)
