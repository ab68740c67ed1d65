"""Parameters as a .safetensors file: what other frameworks read, with codes, scales and decisions kept.

A file holds named tensors and text; nothing in it is code. Types that the format lacks (int4, float4) are stored one
code a byte, and the file says what they were.
"""

import json
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcomp.core import files
from jaxcomp.core.errors import ArgumentError, ArtifactError, JaxcompError, MissingExtraError
from jaxcomp.core.types import Params
from jaxcomp.pack import artifact, container, layout
from jaxcomp.rewrite.plain import from_json, to_json
from jaxcomp.rewrite.rewritten import Decision, rewritten

NATIVE = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "C64": "complex64"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
"""The format's types, and ours."""

BYTES = {"int2": "int8", "int4": "int8", "uint2": "uint8", "uint4": "uint8", "float4_e2m1fn": "uint8"}
"""Types of less than a byte, and what holds one code of each; of floats, its bits."""

OWN = "jaxcomp"
"""The entry of the file's text in which we say what the format has no word for."""


class TensorName(NamedTuple):
    """How one parameter is called and laid out in a file.

    Attributes:
      name: of the tensor.
      axes: the parameter's axes in the order of the tensor's; None: unchanged.
    """

    name: str
    axes: tuple[int, ...] | None = None


class Tensors(NamedTuple):
    """The contents of a file.

    Attributes:
      params: ``{path: array}``, or the tree that was asked for; NumPy arrays.
      metadata: ``{name: text}``, as saved.
      decisions: of the rewritten function, for :func:`jaxcomp.rewrite.restore`; empty if there was none.
    """

    params: Any
    metadata: dict[str, str]
    decisions: tuple[Decision, ...]


def torch_names(params: Params) -> dict[str, TensorName]:
    """Names parameters of Flax as PyTorch names its own.

    ``params/Conv_0/kernel`` becomes ``Conv_0.weight``, ``scale`` and ``embedding`` become ``weight``, ``mean`` and
    ``var`` become ``running_mean`` and ``running_var``. Kernels of matrices ``[in, out]`` become ``[out, in]``, and
    those of 2-D convolutions ``[height, width, in, out]`` become ``[out, in, height, width]``; kernels of other ranks,
    which do not tell what they are of, keep their axes, and so do the parts of packed leaves.

    Args:
      params: any pytree of arrays or shapes. The name of a collection (``params``, ``batch_stats``) is left out.

    Returns:
      ``{path: TensorName}``, for ``names`` of :func:`safetensors`; change any of it.

    Example:
      >>> torch_names({"params": {"Dense_0": {"kernel": jnp.ones((3, 4))}}})["params/Dense_0/kernel"]
      TensorName(name='Dense_0.weight', axes=(1, 0))
    """
    return {leaf.name: _torch_name(leaf.name, np.ndim(leaf.value)) for leaf in layout.rows(params) if not leaf.empty}


def _torch_name(path: str, rank: int) -> TensorName:
    *scopes, last = path.split("/")
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(rank) if last == "kernel" else None
    word = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
    kept = scopes[1:] if scopes and scopes[0] in ("params", "batch_stats") else scopes
    is_part = bool(kept) and kept[-1] == "kernel"  # of a packed leaf, whose own scale is no norm's
    return TensorName(".".join([*kept, last if is_part else word.get(last, last)]), axes)


def safetensors(
    path: str | os.PathLike[str],
    params: Params,
    *,
    fn: Callable[..., Any] | None = None,
    names: Mapping[str, TensorName | str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Saves parameters as a .safetensors file, which every framework reads.

    Args:
      path: the file; its folder exists.
      params: any pytree of concrete arrays. The codes, scales and factors of packed leaves are tensors of their own,
        ``Dense_0/kernel/codes``; masks are bools.
      fn: the rewritten function of these parameters, jitted or not: its decisions go along. None: there is none.
      names: ``{path: name}`` or ``{path: TensorName}`` for tensors to be called, or laid out, otherwise; every other is
        called by its path. :func:`torch_names` makes it for PyTorch.
      metadata: text by name; ``{"format": "pt"}`` is what some readers ask for.

    Returns:
      The bytes of the file.

    Raises:
      ArgumentError: for a leaf that no tensor holds (a key, a complex128), names of paths that there are not, two
        tensors of one name, axes that are no order of a parameter's axes, text that is none, decisions that cannot be
        stored, or parameters that are not those of ``fn``.
      MissingExtraError: without safetensors.

    Example:
      >>> import tempfile
      >>> params = {"Dense_0": {"kernel": jnp.ones((3, 4), jnp.bfloat16)}}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = safetensors(f"{folder}/m.safetensors", params, names=torch_names(params))
      ...     held = load_safetensors(f"{folder}/m.safetensors", params)
      >>> held.params["Dense_0"]["kernel"].shape, str(held.params["Dense_0"]["kernel"].dtype)
      ((3, 4), 'bfloat16')
    """
    _need()
    from safetensors.numpy import save

    asked, text = _checked(params, names or {}), _text(metadata or {})
    tensors: dict[str, np.ndarray] = {}
    said: dict[str, dict[str, Any]] = {}
    for leaf in layout.rows(params):
        if leaf.empty:
            continue
        name, axes = asked.get(leaf.name, TensorName(leaf.name))
        if name in tensors:
            raise ArgumentError(f"two tensors are both called {name!r}, the second is of {leaf.name!r}: name one anew")
        array = artifact.fetch(leaf)
        tensors[name] = np.asarray(_in_bytes(leaf.name, array).transpose(_order(leaf.name, array, axes)), order="C")
        said[name] = {"path": leaf.name, "axes": axes, "dtype": array.dtype.name if array.dtype.name in BYTES else None}
    differing = {name: own for name, own in said.items() if own != {"path": name, "axes": None, "dtype": None}}
    own = {"version": 1, "tensors": differing, "rewrites": _rows(fn, params)}
    content = save(tensors, text | {OWN: json.dumps(own)})
    files.write_atomically(path, content)
    return len(content)


def load_safetensors(path: str | os.PathLike[str], like: Params | None = None) -> Tensors:
    """Loads a .safetensors file of any origin; what :func:`safetensors` wrote comes back bit for bit.

    Args:
      path: the file.
      like: a tree of arrays or shapes whose leaves the tensors are to become, matched by path; for a rewritten function
        the shapes that :func:`jaxcomp.rewrite.restore` returns. None: ``{path: array}``.

    Returns:
      The parameters, the text and the decisions.

    Raises:
      ArtifactError: if the file is none of the format, was cut short or altered so that it is none, or is not like the
        tree given. The format has no checksum: other numbers of the same type are not noticed.
      MissingExtraError: without safetensors.

    Example:
      See :func:`safetensors`.
    """
    _need()
    from safetensors import SafetensorError, deserialize

    try:
        content = files.read(path)
        held = deserialize(content)
        text = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except SafetensorError as error:
        raise ArtifactError(f"{path}: is no .safetensors file, or was cut short: {error}") from error
    try:
        own = json.loads(text.pop(OWN, '{"tensors": {}, "rewrites": []}'))
        arrays = dict(
            sorted(
                (_tensor(path, name, raw, own["tensors"].get(name, {})) for name, raw in held), key=lambda pair: pair[0]
            )
        )
        decisions = tuple(Decision(name, from_json(data), said) for name, said, data in own["rewrites"])
    except (*container.FORGED, JaxcompError) as error:
        raise ArtifactError(f"{path}: what it says of its tensors does not fit them: {error}") from error
    return Tensors(arrays if like is None else artifact.put(path, arrays, like), text, decisions)


def _need() -> None:
    if find_spec("safetensors") is None:
        raise MissingExtraError('.safetensors files need that package: pip install "jaxcomp[safetensors]"')


def _checked(params: Params, names: Mapping[str, TensorName | str]) -> dict[str, TensorName]:
    paths = [leaf.name for leaf in layout.rows(params) if not leaf.empty]
    unknown = sorted(names.keys() - set(paths))
    if unknown:
        raise ArgumentError(f"names has {unknown[0]!r}, which is no parameter: they are {', '.join(paths[:8])}, ...")
    return {path: TensorName(name) if isinstance(name, str) else TensorName(*name) for path, name in names.items()}


def _text(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str) or key == OWN:
            raise ArgumentError(f"metadata is text by name, and {OWN!r} is taken: got {key!r}: {value!r:.60}")
    return dict(metadata)


def _order(path: str, array: np.ndarray, axes: tuple[int, ...] | None) -> tuple[int, ...]:
    order = tuple(range(array.ndim)) if axes is None else tuple(axes)
    if sorted(order) != list(range(array.ndim)):
        raise ArgumentError(f"{path} has the axes {list(range(array.ndim))}, of which {list(order)} is no order")
    return order


def _in_bytes(path: str, array: np.ndarray) -> np.ndarray:
    name = array.dtype.name
    if name in BYTES:
        return array.view(np.uint8) if name.startswith("float") else array.astype(BYTES[name])
    if name not in NATIVE.values():
        raise ArgumentError(f"{path} is of {name}, which .safetensors files do not hold: cast it, or use jaxcomp.pack")
    return array


def _rows(fn: Callable[..., Any] | None, params: Params) -> list[Any]:
    if fn is None:
        return []
    own = rewritten(fn)
    if own is None:
        raise ArgumentError(f"fn is to be a function that a rewrite returned, jitted or not: got {fn!r:.80}")
    own.check(params)
    return [[name, said, to_json(data, f"the decision of {name}")] for name, data, said in own.decisions]


def _tensor(path: Any, name: str, raw: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    if raw["dtype"] not in NATIVE:
        raise ArtifactError(f"{path}: its tensor {name!r} is of {raw['dtype']}, which NumPy does not hold")
    array = np.frombuffer(raw["data"], jnp.dtype(NATIVE[raw["dtype"]])).reshape(raw["shape"])
    if said.get("axes") is not None:
        array = np.asarray(array.transpose(np.argsort(_order(name, array, said["axes"]))), order="C")
    if said.get("dtype") is not None:
        if BYTES[said["dtype"]] != array.dtype.name:
            raise ValueError(f"{name!r} of {array.dtype.name} holds no {said['dtype']}")
        kind = jnp.dtype(said["dtype"])
        array = array.view(kind) if said["dtype"].startswith("float") else array.astype(kind)
    return str(said.get("path", name)), array
