"""A function as a StableHLO program, in one artifact with its parameters.

Parameters are data; a program is code. The compiler that reads it is not made for altered programs, which can end the
process: a digest over program and parameters is checked first. It tells damage, not intent: load programs only from
those whose code you would run.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax import export

from jaxcomp.core.errors import ArgumentError, ArtifactError, JaxcompError, MissingExtraError
from jaxcomp.core.types import Note, Params
from jaxcomp.pack import artifact, container, layout
from jaxcomp.trace.packed import codes as _codes  # noqa: F401  programs may take such leaves, which JAX has to know

Path = str | os.PathLike[str]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_BUILT_IN = (dict, list, tuple, type(None))


def save(
    path: Path,
    fn: Callable[..., Any],
    params: Params,
    *example: Any,
    shapes: Any = None,
    platforms: Sequence[str] = ("cpu", "tpu", "cuda"),
    vjp_order: int = 0,
    notes: Mapping[str, Note] | None = None,
    metadata: Mapping[str, Any] | None = None,
    coder: str = "auto",
) -> int:
    """Saves a function as a StableHLO program, together with its parameters: what loads it needs no code of the model.

    Only ``params`` are stored by :func:`jaxcomp.pack.save`, each tensor in its smallest form that is exact; what the
    function closes over goes into the program, at full size.

    Args:
      path: the file; its folder exists.
      fn: ``fn(params, *inputs)``: any JAX function, jitted or not, shrunk or not.
      params: any pytree of concrete arrays.
      *example: the other arguments, or their shapes.
      shapes: the shapes to export for: None for those of the example; ``"batch, ..."`` for inputs whose first axis may
        have any size (of at least 1), or one such text an input, ``("batch, ...", None)``, as
        ``jax.export.symbolic_args_specs`` takes them. A function may refuse sizes that have no number.
      platforms: where it will run: of ``cpu``, ``cuda``, ``rocm`` and ``tpu``; none of them need be here.
      vjp_order: how many times it can be differentiated in reverse; each order adds about twice the program.
      notes: ``{path: note}``, as ``recipe.describe(params, state, step)`` returns.
      metadata: a JSON-able dict.
      coder: as of :func:`jaxcomp.pack.save`.

    Returns:
      The bytes of the file.

    Raises:
      ArgumentError: if the function cannot be exported for these shapes and platforms, or if its parameters or the
        metadata cannot be stored.
      PathError: if two parameters are spelled alike.
      MissingExtraError: without flatbuffers; for ``coder="range"`` without the extra that it needs.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> mlp = lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"]
      >>> params = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 2))}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.jcz", mlp, params, jnp.ones((1, 4)), shapes="batch, ...")
      ...     program, params = load(f"{folder}/m.jcz")
      >>> print(program)
      (params, float32[batch,4]) -> float32[batch,2], on cpu, tpu, cuda
      >>> program(params, jnp.zeros((3, 4))).shape
      (3, 2)
    """
    _need_flatbuffers()
    _check(platforms, vjp_order)
    exported, program = _exported(fn, params, example, shapes, platforms, vjp_order)
    about = {
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": list(platforms),
        "vjp_order": vjp_order,
    }
    prefixed = {f"params/{name}" if name else "params": note for name, note in (notes or {}).items()}
    tree = {"params": params, "program": np.frombuffer(program, np.uint8)}
    container.check_metadata(metadata)
    signed = {"export": about | {"sha256": _digest(tree, about)}, "user": dict(metadata or {})}
    return artifact.save(path, tree, notes=prefixed, metadata=signed, coder=coder)


class Program:
    """A function that came from a file; prints as its signature. Made by :func:`load`.

    It is called as the function was, with parameters of any tree of the same paths; containers that are not built in
    (FrozenDict, ``nnx.State``, named tuples) come back from it as dicts and lists. It can be jitted, and differentiated
    if it was saved with a ``vjp_order``; it cannot be vmapped: save it with a free batch size.

    Attributes:
      exported: the ``jax.export.Exported``, whose first argument is ``{path: parameter}``.
      metadata: as saved.
    """

    def __init__(self, exported: export.Exported, metadata: Mapping[str, Any]):
        """Takes what a file held."""
        self.exported, self.metadata = exported, dict(metadata)
        self._call = exported.call if exported.has_vjp() else _without_derivative(exported.call)

    def __call__(self, params: Params, *inputs: Any) -> Any:
        """The function's results.

        Raises:
          ArgumentError: for parameters or inputs of other structures, shapes or dtypes, on a platform that it was not
            exported for, under vmap, and under grad if it was saved without a derivative.
        """
        try:
            return self._call(_by_path(params), *_plain(inputs))
        except JaxcompError:
            raise
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ArgumentError(
                f"the program {self} does not take these arguments (args[0] are the parameters): {error}"
            ) from error

    def __str__(self) -> str:
        exported = self.exported
        (_, *inputs), _ = jax.tree.unflatten(exported.in_tree, list(map(_spell, exported.in_avals)))
        outs = jax.tree.unflatten(exported.out_tree, list(map(_spell, exported.out_avals)))
        arguments = ", ".join(["params", *map(_bare, inputs)])
        return f"({arguments}) -> {_bare(outs)}, on {', '.join(exported.platforms)}"


def load(path: Path, *, max_bytes: int | None = None) -> tuple[Program, Params]:
    """Loads a program that :func:`save` wrote: from someone whose code you would run, since a program is code.

    Args:
      path: the file.
      max_bytes: the most bytes that it may take in memory, as in :func:`jaxcomp.pack.load`.

    Returns:
      ``(program, params)``: a function of ``(params, *inputs)``, and the parameters as NumPy arrays in dicts and lists,
      bit for bit those that were saved.

    Raises:
      ArtifactError: if the file is no artifact, was cut short or altered, also by one who wrote it anew, is larger than
        ``max_bytes``, holds no program, or one that this JAX does not read.
      MissingExtraError: without flatbuffers.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.jcz", lambda w, x: x**2 * w, jnp.float32(3), jnp.float32(1), vjp_order=1)
      ...     program, w = load(f"{folder}/m.jcz")
      >>> float(jax.grad(program, 1)(w, jnp.float32(2)))
      12.0
    """
    _need_flatbuffers()
    tree, metadata = artifact.load(path, max_bytes=max_bytes)
    if not _holds_program(tree, metadata):
        raise ArtifactError(f"{path}: holds no program but a tree of arrays: load it by jaxcomp.pack.load")
    about = dict(metadata["export"])
    digest = about.pop("sha256", None)  # files of before the digest have none
    if digest is not None and digest != _digest(tree, about):
        raise ArtifactError(
            f"{path}: its program or its parameters are not those that were saved together (their SHA-256 differs): "
            "get the file again, or save it anew by jaxcomp.export.save"
        )
    try:
        exported = export.deserialize(bytearray(tree["program"]))
        return Program(exported, metadata["user"]), tree["params"]
    except Exception as error:  # the reader of JAX says in a dozen ways that it cannot
        raise ArtifactError(
            f"{path}: its program, exported with {metadata['export']}, is none that JAX {jax.__version__} reads "
            f"({type(error).__name__}: {error}): JAX reads programs that are up to six months older; save it anew"
        ) from error


def _holds_program(tree: Any, metadata: dict[str, Any]) -> bool:
    return (
        isinstance(tree, dict)
        and tree.keys() == {"params", "program"}
        and isinstance(tree["program"], np.ndarray)
        and metadata.keys() == {"export", "user"}
        and all(isinstance(part, dict) for part in metadata.values())
    )


def _digest(tree: Params, about: Mapping[str, Any]) -> str:
    """SHA-256 of what is exported: each array's path, shape, dtype and bytes, and what is said of the program."""
    hashed = hashlib.sha256(repr(sorted(about.items())).encode())
    for leaf in sorted(layout.rows(tree), key=lambda leaf: leaf.name):  # other containers have another order
        array = None if leaf.empty else artifact.fetch(leaf)
        said = leaf.value if array is None else (array.shape, array.dtype.name)
        hashed.update(repr((leaf.name, said)).encode())
        if array is not None:
            hashed.update(np.asarray(array, order="C").tobytes())
    return hashed.hexdigest()


def _check(platforms: Sequence[str], vjp_order: int) -> None:
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(PLATFORMS):
        raise ArgumentError(
            f"platforms must be a sequence of some of {', '.join(map(repr, PLATFORMS))}, got {platforms!r} (a GPU is "
            "'cuda' or 'rocm')"
        )
    if not isinstance(vjp_order, int) or vjp_order < 0:
        raise ArgumentError(f"vjp_order must be the number of derivatives, 0 or more, got {vjp_order!r}")


def _exported(
    fn: Callable[..., Any], params: Params, example: Any, shapes: Any, platforms: Sequence[str], vjp_order: int
) -> tuple[export.Exported, bytes]:
    named, tree, example_tree = _by_path(params), jax.tree.structure(params), jax.tree.structure(example)
    paths, order = list(named), _original_order(example)

    def program(named: dict[str, Any], *inputs: Any) -> Any:
        leaves = jax.tree.leaves(inputs)
        params = jax.tree.unflatten(tree, [named[path] for path in paths])
        return _plain(fn(params, *jax.tree.unflatten(example_tree, [leaves[i] for i in order])))

    try:
        with _without_folders():
            arguments = export.symbolic_args_specs(_plain(example), _plain(shapes))
            exported = export.export(jax.jit(program), platforms=platforms)(named, *arguments)
            return exported, bytes(exported.serialize(vjp_order))
    except Exception as error:  # the function's own errors among them
        asked = "the shapes of the example" if shapes is None else f"shapes {shapes!r}"
        fixed = "" if shapes is None else " Leave `shapes` out to export it for the shapes of the example alone."
        raise ArgumentError(
            f"the function cannot be exported for {asked}, platforms {tuple(platforms)} and vjp_order {vjp_order}: "
            f"{type(error).__name__}: {error}.{fixed}"
        ) from error


def _plain(tree: Any) -> Any:
    """The tree with every container that is not built in as dicts and lists: those that a program can name."""

    def named(key: Any) -> Any:  # a list is an index of a sequence; NNX numbers the entries of its lists like a dict's
        return key if isinstance(key, list) else str(key)

    def one(node: Any) -> Any:
        return layout.rebuild([(list(map(named, leaf.keys)), leaf.value) for leaf in layout.rows(node)])

    return jax.tree.map(one, tree, is_leaf=lambda node: type(node) not in _BUILT_IN)


def _by_path(params: Params) -> dict[str, Any]:
    # As the file spells them, so that parameters are told alike before and after.
    return {leaf.name: leaf.value for leaf in layout.rows(params) if not leaf.empty}


def _original_order(tree: Any) -> list[int]:
    """For each leaf of a tree, which leaf of the plain tree it is."""
    structure = jax.tree.structure(tree)
    order = jax.tree.leaves(_plain(jax.tree.unflatten(structure, range(len(jax.tree.leaves(tree))))))
    return np.argsort(order).tolist()


def _without_derivative(call: Callable[..., Any]) -> Callable[..., Any]:
    @jax.custom_jvp
    def program(*args: Any) -> Any:
        return call(*args)

    @program.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise ArgumentError("this program was saved without a derivative: save it with vjp_order=1")

    return program


@contextlib.contextmanager
def _without_folders() -> Iterator[None]:
    """Source files by their bare names: a program's bytes do not tell where on which machine it was made."""
    setting = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, setting)
    jax.config.update(setting, before or r".*[/\\]")
    try:
        yield
    finally:
        jax.config.update(setting, before)


def _need_flatbuffers() -> None:
    if find_spec("flatbuffers") is None:
        raise MissingExtraError('programs are written and read by flatbuffers: pip install "jaxcomp[export]"')


def _spell(aval: Any) -> str:
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


def _bare(tree: Any) -> str:
    return str(tree).replace("'", "")
