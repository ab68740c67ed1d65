"""A network of one's own, ``package.module:function``, of whatever library: found, made, and used as those here are.

The function is given ``classes`` (or ``num_classes``), ``axis_name``, and the options of the configuration, as far as
it has such parameters. What it may give:

* a Flax Linen module;
* a Flax NNX module, if it takes ``rngs``;
* an Equinox module of one image ``[height, width, channels]``, if it takes ``key``;
* a pair ``(init, apply)``: ``init(key, images) -> parameters`` and ``apply(parameters, images) -> logits``; of
  ``{"params": ..., ...}`` training also gives what the other collections are afterwards.

Images are normalized float32, ``[batch, height, width, channels]``. A call that has one of the parameters of
``TRAINING`` is told whether it trains, one with ``valid`` which examples count, ``[batch]``.
"""

import difflib
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jaxcomp.core.paths import named_leaves
from train.common.errors import UserError, first_line
from train.models import from_nnx

TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
    "use_running_average": False,
}
"""Parameters that say how a network runs, and what they are when it trains."""
GIVEN = ("classes", "num_classes", "axis_name", "parent", "name")
KINDS = (
    "a Flax Linen module, a Flax NNX module (of a function with a parameter rngs), an Equinox module (of one with a "
    "parameter key), or a pair (init, apply)"
)


class Own(NamedTuple):
    """A network with the methods of a Linen module that are used here.

    Attributes:
      init: ``(key, images) -> variables``, ``{"params": ..., ...}``.
      apply: ``(variables, images, train=False, valid=None, mutable=None, step=0) -> outputs``; where ``mutable`` names
        collections, ``(outputs, {name: collection})``. What is drawn at random belongs to the step.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


def create(name: str, classes: int, options: Mapping[str, Any], axis_name: str | None = None) -> Own:
    """Makes the network that ``package.module:function`` names.

    Args:
      name: of the function, or class.
      classes: number of outputs.
      options: further arguments.
      axis_name: the pmap axis over which statistics are averaged.

    Raises:
      UserError: for a module or a function that is not there, with what is; one that takes no such options, fails, or
        gives something else than it may.
    """
    function = find(name)
    try:
        parameters = inspect.signature(_made_by(function)).parameters
    except (TypeError, ValueError) as error:
        _refuse(name, f"it is no function that can be called with classes ({first_line(error)})")
    known = {key for key, own in parameters.items() if own.kind in (own.KEYWORD_ONLY, own.POSITIONAL_OR_KEYWORD)}
    lazy = {"rngs", "key"} & known
    free = any(own.kind is own.VAR_KEYWORD for own in parameters.values())
    if unknown := sorted(set(options) - known) if not free else []:
        _refuse(name, f"it has no option {unknown}; it has: {sorted(known - {*GIVEN, *lazy}) or 'none'}")
    given = {"classes": classes, "num_classes": classes, "axis_name": axis_name}
    arguments = {key: value for key, value in given.items() if key in known} | dict(options)
    needed = [key for key in known - {*arguments, *lazy} if parameters[key].default is inspect.Parameter.empty]
    if needed:
        _refuse(name, f"it needs {', '.join(sorted(needed))}: give them as options of the model")
    make = functools.partial(function, **arguments)
    try:
        made = _of_key(name, make, lazy.pop()) if lazy else _of_call(name, make())
    except UserError:
        raise
    except Exception as error:  # the function is the user's
        _refuse(name, f"it fails: {first_line(error)}", error)
    return _averaged(made, axis_name)


def find(name: str) -> Callable[..., Any]:
    """Imports what ``package.module:function`` names.

    Raises:
      UserError: if there is no such module or function; what there is is listed.
    """
    module, _, function = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            _refuse(name, f"importing {module} fails: {first_line(error)}", error)
        _refuse(name, _missing(module, error.name), error)
    except Exception as error:  # the module is the user's
        _refuse(name, f"importing {module} fails: {first_line(error)}", error)
    own = getattr(found, function, None)
    if not callable(own):
        names = [key for key, value in vars(found).items() if callable(value) and _defined_in(value, found)]
        _refuse(name, f"{module} has no function {function!r}; it has: {_listed(function, names)}")
    return own


def _made_by(function: Any) -> Callable[..., Any]:
    """Returns the object whose signature a call has; a class's own, not that of its metaclass."""
    return functools.partial(getattr(function, "__init__"), None) if isinstance(function, type) else function  # noqa: B009


def _defined_in(value: Any, module: ModuleType) -> bool:
    name = getattr(value, "__name__", "_")
    return getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")


def _missing(module: str, name: str) -> str:
    """Names of what is importable where a module is not."""
    parent, _, last = name.rpartition(".")
    if parent:
        paths = list(getattr(sys.modules[parent], "__path__", ()))
        if not paths:
            return f"{parent} is a module, and no package: it holds no {last!r}"
        return (
            f"there is no module {name}; {parent} has: {_listed(last, [m.name for m in pkgutil.iter_modules(paths)])}"
        )
    here = [found.name for found in pkgutil.iter_modules([str(Path.cwd())])]
    return (
        f"there is no module {name!r} in {Path.cwd()}, which has: {_listed(last, here)}, nor among what is installed: "
        "start in the folder that holds it, or name that folder in PYTHONPATH"
    )


def _listed(name: str, names: list[str]) -> str:
    """Names, those like the one that is missing first."""
    near = difflib.get_close_matches(name, names, n=3)
    rest = sorted(own for own in names if own not in near)
    return ", ".join([*near, *rest][:20]) or "none"


def _refuse(name: str, why: str, error: Exception | None = None) -> NoReturn:
    raise UserError(f"model {name!r}: {why}") from error


def _of_key(name: str, make: Callable[..., Any], kind: str) -> Own:
    """The network of a function that takes ``rngs`` or ``key``, made as shapes."""
    if kind == "rngs":
        shapes = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
        return _nnx(name, make, shapes) if isinstance(shapes, nnx.Module) else _of_call(name, shapes)
    try:
        import equinox
    except ImportError:
        return _of_call(name, make(key=jax.random.key(0)))
    shapes = equinox.filter_eval_shape(lambda: make(key=jax.random.key(0)))
    return _equinox(name, make, shapes) if isinstance(shapes, equinox.Module) else _of_call(name, shapes)


def _of_call(name: str, made: Any) -> Own:
    """The network that was given as it is."""
    if isinstance(made, nn.Module):
        return _linen(made)
    both = made if isinstance(made, tuple) else (getattr(made, "init", None), getattr(made, "apply", None))
    if len(both) != 2 or not all(map(callable, both)):
        what = (
            f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__module__}.{type(made).__name__}"
        )
        _refuse(name, f"it must give {KINDS}; it gave {what}")
    return _plain(*both)


def _mode(function: Callable[..., Any], drop: tuple[str, ...] = ()) -> Callable[..., dict[str, Any]]:
    """``(train, valid) -> keywords`` with which a network is told how it runs."""
    known = set(inspect.signature(function).parameters) - set(drop)

    def keywords(train: bool, valid: Any) -> dict[str, Any]:
        told = {name: value == train for name, value in TRAINING.items() if name in known}
        return told | ({"valid": valid} if "valid" in known else {})

    return keywords


def key_of(step: Any) -> jax.Array:
    """The key from which a network draws in a step."""
    return jax.random.fold_in(jax.random.key(0), step)


def _linen(module: nn.Module) -> Own:
    keywords = _mode(type(module).__call__)

    def apply(
        variables: Any, images: Any, *, train: bool = False, valid: Any = None, mutable: Any = None, step: Any = 0
    ) -> Any:
        how = {"rngs": {"params": key_of(step)}} if train else {}  # whatever a module calls what it draws from
        if mutable is not None:
            how["mutable"] = mutable
        return module.apply(variables, images, **how, **keywords(train, valid))

    return Own(lambda key, images: module.init(key, images, **keywords(False, None)), apply)


def _plain(init: Callable[..., Any], function: Callable[..., Any]) -> Own:
    keywords, keyed = _mode(function), "key" in inspect.signature(function).parameters

    def fresh(key: Any, images: Any) -> Any:
        made = init(key, images)
        return made if isinstance(made, dict) and "params" in made else {"params": made}

    def apply(
        variables: Any, images: Any, *, train: bool = False, valid: Any = None, mutable: Any = None, step: Any = 0
    ) -> Any:
        how = keywords(train, valid) | ({"key": key_of(step) if train else None} if keyed else {})
        if set(variables) > {"params"}:
            out = function(variables, images, **how)  # in training with what has moved
            return out if mutable is not None or not isinstance(out, tuple) else out[0]
        out = function(variables["params"], images, **how)
        return out if mutable is None else (out, {})

    return Own(fresh, apply)


def _nnx(name: str, make: Callable[..., Any], shapes: Any) -> Own:
    graph, _, stats, rest = nnx.split(shapes, nnx.Param, nnx.BatchStat, ...)
    others = {type(own).__name__ for _, own in nnx.to_flat_state(rest) if not isinstance(own, nnx.RngState)}
    if others:
        _refuse(name, f"it has variables of kind {', '.join(sorted(others))}: Param, BatchStat and random ones can be")
    keywords, drawn, moving = _mode(type(shapes).__call__), bool(jax.tree.leaves(rest)), bool(jax.tree.leaves(stats))

    def init(key: Any, images: Any) -> Any:
        _, params, stats, _ = nnx.split(make(rngs=nnx.Rngs(key)), nnx.Param, nnx.BatchStat, ...)
        held = {"params": params, "batch_stats": stats}
        return {own: from_nnx.tree(state) for own, state in held.items() if own == "params" or jax.tree.leaves(state)}

    def apply(
        variables: Any, images: Any, *, train: bool = False, valid: Any = None, mutable: Any = None, step: Any = 0
    ) -> Any:
        params = from_nnx.state(variables["params"], nnx.Param)
        stats = from_nnx.state(variables.get("batch_stats", {}), nnx.BatchStat)
        module = nnx.merge(graph, params, stats, *([_random(rest, step)] if drawn else [rest]))
        module.train() if train else module.eval()
        out = module(images, **keywords(train, valid))
        if mutable is None:
            return out
        return out, {"batch_stats": from_nnx.tree(nnx.state(module, nnx.BatchStat))} if moving else {}

    return Own(init, apply)


def _random(rest: Any, step: Any) -> Any:
    """The streams of a step, from which dropout draws."""

    def filled(number: int, own: Any) -> Any:
        value = jnp.zeros((), jnp.uint32) if isinstance(own, nnx.RngCount) else jax.random.fold_in(key_of(step), number)
        return own.replace(value)

    flat = nnx.to_flat_state(rest)
    return nnx.from_flat_state([(path, filled(number, own)) for number, (path, own) in enumerate(flat)])


def _equinox(name: str, make: Callable[..., Any], shapes: Any) -> Own:
    """Arrays become nested dicts by their attributes' names; an image at a time, as Equinox has it."""
    import equinox

    arrays, static = equinox.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    whole = [path for path, leaf in named_leaves(arrays).items() if not jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if whole or any(isinstance(x, equinox.nn.StateIndex) for x in jax.tree.leaves(
        shapes, is_leaf=lambda x: isinstance(x, equinox.nn.StateIndex))):  # fmt: skip
        _refuse(
            name, f"it has state beside its parameters ({', '.join(whole) or 'StateIndex'}), which Equinox keeps apart"
        )
    keywords, keyed = _mode(type(shapes).__call__, ("key",)), "key" in inspect.signature(shapes.__call__).parameters

    def init(key: Any, images: Any) -> Any:
        params: dict[str, Any] = {}
        for path, leaf in named_leaves(equinox.filter(make(key=key), equinox.is_array)).items():
            *parents, last = path.split("/")
            functools.reduce(lambda tree, own: tree.setdefault(own, {}), parents, params)[last] = leaf
        return {"params": params}

    def apply(
        variables: Any, images: Any, *, train: bool = False, valid: Any = None, mutable: Any = None, step: Any = 0
    ) -> Any:
        held = named_leaves(variables["params"])
        leaves = [held[path] for path in named_leaves(arrays)]
        module = equinox.combine(jax.tree.unflatten(jax.tree.structure(arrays), leaves), static)
        module = equinox.nn.inference_mode(module, value=not train)
        how = keywords(train, None)
        if keyed and train:
            keys = jax.random.split(key_of(step), len(images))
            out = jax.vmap(lambda image, key: module(image, key=key, **how))(images, keys)
        else:
            out = jax.vmap(lambda image: module(image, **how))(images)
        return out if mutable is None else (out, {})

    return Own(init, apply)


def _averaged(own: Own, axis_name: str | None) -> Own:
    """The network whose statistics are the means of those of all devices of a pmap axis."""
    if axis_name is None:
        return own

    def apply(variables: Any, images: Any, *, mutable: Any = None, **how: Any) -> Any:
        if mutable is None:
            return own.apply(variables, images, **how)
        out, moved = own.apply(variables, images, mutable=mutable, **how)
        return out, jax.tree.map(lambda leaf: jax.lax.pmean(leaf, axis_name), moved)

    return Own(own.init, apply)
