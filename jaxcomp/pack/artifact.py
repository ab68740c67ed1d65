"""Saving and loading a compressed model."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError, ArtifactError, MissingExtraError
from jaxcomp.core.leaves import is_key
from jaxcomp.core.types import Note, Params
from jaxcomp.pack import coding, container, entropy, layout, pieces, stored

Path = str | os.PathLike[str]


def save(
    path: Path,
    params: Params,
    *,
    notes: Mapping[str, Note] | None = None,
    metadata: Mapping[str, Any] | None = None,
    coder: str = "auto",
) -> int:
    """Saves a tree of arrays as one small file that gives back their very bits.

    ``value = level(code - zero_point) * scale``: where a note gives a grid and the values lie on it, codes are
    stored; where zeros are many, positions and the rest; each tensor in the smallest form that is exact. The
    file appears whole or not at all.

    Args:
      path: the file; its folder exists.
      params: any pytree of concrete arrays of any shapes: the view to ship, ``recipe.apply(params, state)``.
      notes: ``{path: note}``, as ``recipe.describe(params, state, step)`` returns. If they tell of another state's
        grids than the view has, these are found anew; where there are none, a warning names the tensors.
      metadata: a JSON-able dict, kept as JSON keeps it (tuples become lists, keys strings).
      coder: ``"range"`` codes integers, codes and positions of zeros with a range coder where that is smaller; such a
        file is read where the extra ``pack`` is installed (``pip install 'jaxcomp[pack]'``). ``"deflate"`` needs no
        extra. ``"auto"`` is ``"range"`` where the extra is installed, else ``"deflate"``.

    Returns:
      The bytes of the file.

    Raises:
      ArgumentError: if a leaf is no concrete array of numbers (a typed PRNG key, a string), a key of the tree
        is neither a string nor an integer, the tree is nested deeper than 512, a note is of no leaf, the metadata is
        not JSON-able, the folder does not exist, or there is no such coder.
      MissingExtraError: for ``coder="range"`` without the extra.
      PathError: if two leaves are spelled alike.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.jcz", {"w": jnp.eye(100)}, metadata={"accuracy": 0.9})
      ...     params, metadata = load(f"{folder}/m.jcz")
      >>> size < 300, params["w"].shape, metadata
      (True, (100, 100), {'accuracy': 0.9})

    Reference: Han et al., Deep compression, 2016.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"path must be the name of a file, save(path, params), got {type(path).__name__}")
    return write(path, params, notes=notes, metadata=metadata, coder=coder)


def write(
    path: Path,
    params: Params,
    *,
    notes: Mapping[str, Note] | None = None,
    metadata: Mapping[str, Any] | None = None,
    rewrites: Sequence[Any] = (),
    coder: str = "auto",
) -> int:
    """Writes a tree of arrays, and how a function of it is made again, as :func:`save` does.

    Args:
      path, params, notes, metadata, coder: as of :func:`save`.
      rewrites: ``[name, in words, decision]`` of each rewrite, JSON-able.
    """
    ranges = _ranges(coder)
    leaves = layout.rows(params)
    full = [leaf for leaf in leaves if not leaf.empty]
    notes = dict(notes or {})
    _check_arguments(full, notes, metadata)
    _check_structure(leaves)
    arrays = [fetch(leaf) for leaf in full]
    said = [notes.get(leaf.note, Note()) for leaf in full]
    fields = layout.bit_fields(params)
    own = [fields.get(leaf.note) for leaf in full]
    coded = _encoded(list(zip(arrays, said, own, strict=True)), ranges)
    _warn_of([leaf.name for leaf, c in zip(full, coded, strict=True) if c.off_grid])
    header: dict[str, Any] = {
        "empty": [[i, leaf.keys, leaf.value] for i, leaf in enumerate(leaves) if leaf.empty],
        "off_grid": [i for i, c in enumerate(coded) if c.off_grid],
        "metadata": dict(metadata or {}),
        "rewrites": list(rewrites),
        "coder": stored.CODER if any(c.ranged for c in coded) else None,
    }
    blocks = [
        container.Block([leaf.keys, array.shape, array.dtype.name, c.kind, c.args], c.streams)
        for leaf, array, c in zip(full, arrays, coded, strict=True)
    ]
    return container.write(path, {key: value for key, value in header.items() if value}, blocks)


def _encoded(tensors: list[tuple[np.ndarray, Note, Any]], ranges: bool) -> list[coding.Coded]:
    """Tensors as streams: small ones side by side in threads, large ones one after the other, each in pieces."""

    def one(array: np.ndarray, note: Note, apart: Any) -> coding.Coded:
        return coding.encode(array, note.grid, note.format, ranges=ranges, fields=apart)

    with pieces.workers() as pool:
        small = [pool.submit(one, *tensor) if tensor[0].size <= pieces.PIECE else None for tensor in tensors]
        return [job.result() if job else one(*tensor) for tensor, job in zip(tensors, small, strict=True)]


def _ranges(coder: str) -> bool:
    """Whether the range coder is to be used."""
    if coder not in ("auto", "range", "deflate"):
        raise ArgumentError(f"coder must be 'auto', 'range' or 'deflate', got {coder!r:.40}")
    if coder == "range":
        entropy.constriction()
    return coder == "range" or (coder == "auto" and entropy.installed())


def _check_arguments(leaves: list[layout.Leaf], notes: dict[str, Note], metadata: Any) -> None:
    known = [leaf.note for leaf in leaves]
    unknown = sorted(set(notes) - set(known))
    if unknown:
        raise ArgumentError(
            f"notes are given for {_listing(unknown)}, which the tree does not have; its paths are "
            f"{_listing(known)}. Save the tree that `describe` was called with, or rename the notes."
        )
    for path, note in notes.items():
        if not isinstance(note, Note):
            raise ArgumentError(
                f"notes must be {{path: jc.Note}}, as `describe` returns, got {note!r:.40} for {path!r}"
            )
    container.check_metadata(metadata)


def _warn_of(off_grid: list[str]) -> None:
    if off_grid:
        warnings.warn(
            f"notes give grids for {_listing(off_grid)} on which the values do not lie: these are stored whole, which "
            "takes several times the bytes. Save the view, recipe.apply(params, state), with the notes of the same "
            "state, recipe.describe(params, state, step)",
            stacklevel=4,
        )


def _check_structure(leaves: list[layout.Leaf]) -> None:
    try:  # so that nothing is saved that cannot be loaded
        layout.rebuild([(leaf.keys, None) for leaf in leaves])
    except ValueError as error:
        raise ArgumentError(f"the tree cannot be stored as dicts and lists: {error}") from error


def fetch(leaf: layout.Leaf) -> np.ndarray:
    """Fetches the array of a leaf as it is stored: to the host, in this machine's byte order; of random keys the data.

    Raises:
      ArgumentError: if it is no concrete array of numbers, or not all of it is here.
    """
    name, value = leaf.name, leaf.value
    if isinstance(value, jax.core.Tracer):
        raise ArgumentError(f"{name}: needs a concrete array and got a tracer: save outside jit and grad")
    if isinstance(value, jax.Array) and is_key(value):
        value = jax.random.key_data(value)
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        raise ArgumentError(f"{name}: is spread over other processes: gather it first (process_allgather)")
    array = np.asarray(value)
    try:
        return array.astype(coding.dtype_named(array.dtype.name), copy=False)
    except ValueError as error:
        raise ArgumentError(f"{name}: a leaf needs to be an array of numbers: {error}; got {value!r}") from error


def load(path: Path, *, like: Params | None = None, max_bytes: int | None = None) -> tuple[Params, dict[str, Any]]:
    """Loads a file that :func:`save` wrote.

    Nothing in a file is code, and what :func:`save` would not write is refused before anything is allocated.

    Args:
      path: the file.
      like: a pytree of arrays, or of anything with a shape and a dtype, with the paths, shapes and dtypes of
        the saved tree. Without it, the tree comes back as dicts, and lists where it had sequences, and random keys as
        their data.
      max_bytes: the most bytes that the arrays may take in memory; the header may take a 64th of it, or 16 MiB. None:
        1 GiB, 1000 times the file, or the size of ``like``, whichever is most.

    Returns:
      ``(params, metadata)``; the leaves are NumPy arrays, bit for bit those that were saved, and random keys where
      ``like`` has them.

    Raises:
      ArtifactError: if the file is no artifact, was cut short or altered, is not like ``like``, or is larger than
        ``max_bytes``.
      MissingExtraError: if it was range-coded, and the extra ``pack`` is not installed.

    Example:
      >>> import tempfile
      >>> import jax, jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.jcz", (jnp.ones(2), {"b": jnp.zeros(1)}))
      ...     plain, _ = load(f"{folder}/m.jcz")
      ...     like = (jax.ShapeDtypeStruct((2,), "float32"), {"b": jax.ShapeDtypeStruct((1,), "float32")})
      ...     again, _ = load(f"{folder}/m.jcz", like=like)
      >>> plain
      [array([1., 1.], dtype=float32), {'b': array([0.], dtype=float32)}]
      >>> again
      (array([1., 1.], dtype=float32), {'b': array([0.], dtype=float32)})
    """
    return decoded(path, stored.read(path, max_bytes, at_least=0 if like is None else _nbytes(like)), like)


def decoded(path: Path, held: stored.Stored, like: Params | None) -> tuple[Params, dict[str, Any]]:
    """Decodes the tree and the metadata of a file that was read; see :func:`load`.

    Args:
      path: of the file, for errors.
      held: its contents.
      like: a tree to put the leaves into; None: dicts and lists.

    Raises:
      ArtifactError: if the contents do not make a tree, or not one like ``like``.
    """
    try:
        leaves = [(t.keys, coding.decode(t.coded, t.shape, t.dtype)) for t in held.tensors]
        arrays = {t.name: array for t, (_, array) in zip(held.tensors, leaves, strict=True)}
        for index, keys, value in held.empty:
            leaves.insert(index, (keys, value))
        tree = layout.rebuild(leaves)
    except container.FORGED as error:
        raise container.foreign(path, error) from error
    except MissingExtraError as error:
        raise MissingExtraError(f"{path}: {error}") from error
    return (tree if like is None else put(path, arrays, like)), held.metadata


def _nbytes(like: Params) -> int:
    leaves = jax.tree.leaves(like)
    return sum(math.prod(np.shape(leaf)) * getattr(getattr(leaf, "dtype", None), "itemsize", 16) for leaf in leaves)


def put(path: Path, arrays: dict[str, np.ndarray], like: Params) -> Params:
    """Puts arrays into a tree of the same paths, shapes and dtypes; errors name the file.

    Args:
      path: of the file.
      arrays: by path.
      like: the tree.

    Raises:
      ArtifactError: for arrays of other paths, shapes or dtypes.
    """
    wanted = {leaf.name: _shape_and_dtype(leaf.value) for leaf in layout.rows(like) if not leaf.empty}
    wrong = [
        *(f"{name!r} is needed and not in the file" for name in wanted if name not in arrays),
        *(f"{name!r} is in the file and not in `like`" for name in arrays if name not in wanted),
    ]
    for name in wanted.keys() & arrays.keys():
        has = _shape_and_dtype(arrays[name])
        if has != wanted[name]:
            wrong.append(f"{name!r} needs to be {_spell(wanted[name])} and is {_spell(has)} in the file")
    if wrong:
        raise ArtifactError(
            f"{path}: is not like the tree given: {_listing(sorted(wrong), '; ')}. Load without `like` "
            "to see what the file holds."
        )
    leaves = [_as_key(arrays[name], leaf) if is_key(leaf) else arrays[name]
              for name, leaf in zip(wanted, jax.tree.leaves(like), strict=True)]  # fmt: skip
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _as_key(data: np.ndarray, like: Any) -> jax.Array:
    """Random keys of their data, of the generator that a key or its shape ``like`` is for."""
    made: list[Any] = []
    jax.eval_shape(lambda key: made.append(jax.random.key_impl(key)), like)  # a shape alone is not asked
    return jax.random.wrap_key_data(jnp.asarray(data), impl=made[0])


def _shape_and_dtype(leaf: Any) -> tuple[tuple[int, ...], str]:
    if is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    dtype = getattr(leaf, "dtype", None)
    return tuple(np.shape(leaf)), str(np.asarray(leaf).dtype if dtype is None else dtype)


def _spell(shape_and_dtype: tuple[tuple[int, ...], str]) -> str:
    shape, dtype = shape_and_dtype
    return f"{dtype}[{','.join(map(str, shape))}]"


def _listing(items: list[str], joint: str = ", ", most: int = 12) -> str:
    rest = f"{joint}and {len(items) - most} more" if len(items) > most else ""
    return (joint.join(items[:most]) or "(none)") + rest
