"""Programs by what they compute: what was compiled for one closure is not compiled again for another."""

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax

from jaxcomp.core.finite import not_finite

MOST = 1024
"""So many programs are held; of more, those that were called for last."""

_KNOWN: OrderedDict[Any, Any] = OrderedDict()


def compiled(function: Callable[..., Any], key: Any = None) -> Callable[..., Any]:
    """Compiles a function as ``jax.jit`` does, for functions made anew for each layer or call.

    A program is looked for among all that were compiled so, by its text: layers of the same shapes share one, and a
    second call finds those of the first. Whatever the function closes over becomes a part of that text: pass large
    arrays as arguments. Under transformations and ``jax.disable_jit`` the function is called as it is.

    Args:
      function: of trees of arrays.
      key: hashable; functions of one key compute the same, and all but the first are not traced either. None: not
        known.

    Example:
      >>> import jax.numpy as jnp
      >>> [compiled(lambda x: 2 * x)(jnp.ones(2)).tolist() for _ in range(2)]  # the second time nothing is compiled
      [[2.0, 2.0], [2.0, 2.0]]
    """
    own: dict[Any, Any] = {} if key is None else _of(key)

    def call(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        if getattr(jax.config, "jax_disable_jit") or any(isinstance(x, jax.core.Tracer) for x in leaves):  # noqa: B009
            return function(*args)
        kinds = tuple((jax.typeof(x), _layout(x)) for x in leaves)
        key = tree, settings(), kinds
        if key not in own:
            own[key] = _found(function, args, key)
        return own[key](*args)

    return call


def settings() -> tuple[Any, ...]:
    """Returns the settings of JAX that a trace takes in, the mesh that is set too: under others it is made anew.

    Example:
      >>> known = settings()
      >>> with jax.default_matmul_precision("highest"):
      ...     settings() == known
      False
    """
    own = tuple(getattr(jax.config, name) for name in ("jax_default_matmul_precision", "jax_enable_x64"))
    return jax.sharding.get_abstract_mesh(), *own


@functools.lru_cache(MOST)
def _of(key: Any) -> dict[Any, Any]:
    """The programs of a key, by what they were called with."""
    return {}


@functools.lru_cache(256)
def together(
    function: Callable[..., Any], check: bool = True
) -> Callable[[list[tuple[Any, ...]]], tuple[list[Any], bool]]:
    """Maps a function over many tuples of arguments, in one small program for all of a kind.

    One program for all takes as long to compile as if each had its own. Under transformations, and for arrays that lie
    on several devices, the function is called for one after another.

    Args:
      function: of trees of arrays.
      check: whether to find out if the results are finite, for which they are read on the host.

    Returns:
      ``arguments -> (results, whether all of them are known to be finite)``.

    Example:
      >>> import jax.numpy as jnp
      >>> together(jnp.sqrt)([(jnp.ones(2),), (-jnp.ones(1),)])
      ([Array([1., 1.], dtype=float32), Array([nan], dtype=float32)], False)
    """

    run = compiled(function)

    def call(each: list[tuple[Any, ...]]) -> tuple[list[Any], bool]:
        leaves = jax.tree.leaves(each)
        traced = any(isinstance(x, jax.core.Tracer) for x in leaves)
        devices = {device for x in leaves if isinstance(x, jax.Array) and not traced for device in x.devices()}
        if traced or len(devices) > 1 or not leaves:
            return [function(*args) for args in each], False
        found = [run(*args) for args in each]
        return found, check and not any(map(not_finite, jax.tree.leaves(found)))

    return call


def _found(function: Callable[..., Any], args: tuple[Any, ...], kind: Any) -> Any:
    # Arguments that are not used stay, or texts could be the same of functions that use others.
    lowered = jax.jit(function, keep_unused=True).lower(*args)
    text = hashlib.sha256(lowered.as_text().encode()).digest()
    key = text, kind, jax.tree.structure(lowered.out_info), getattr(jax.config, "jax_default_device", None)
    if key not in _KNOWN:
        _KNOWN[key] = lowered.compile()
    _KNOWN.move_to_end(key)
    while len(_KNOWN) > MOST:
        _KNOWN.popitem(last=False)
    return _KNOWN[key]


def _layout(x: Any) -> Any:
    """Where an array lies, if it is bound to be there."""
    return x.sharding if isinstance(x, jax.Array) and x.committed else None
