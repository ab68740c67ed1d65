"""Packed leaves: a parameter held as several arrays whose Einstein sum is its value.

The indices of the arrays are numbered. An axis of the value is a run of indices (several where axes were merged, none
where its size is 1), so transposes and reshapes move indices about and leave the arrays alone.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax import export
from jax.sharding import PartitionSpec

from jaxcomp.core.paths import PartKey

Indices = tuple[int, ...]


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A parameter in parts: a pytree of its arrays.

    Attributes:
      path: the parameter that it stands for.
      parts: the arrays, by name.
      names: for each array, the number of each of its axes' index; numbers below 0 are summed over.
      axes: for each axis of the value, the indices that it runs over.
      home: the same for the parameter itself, before it was transposed or reshaped.
      stack: the indices that scans around it have taken, each with its scan, the outermost first.
    """

    def __init__(
        self,
        path: str,
        parts: Mapping[str, Any],
        names: Sequence[Indices],
        axes: Sequence[Indices],
        home: Sequence[Indices] | None = None,
        stack: tuple[tuple[int, Any], ...] = (),
    ):
        """Takes the arrays and what their axes are."""
        self.path, self.parts, self.stack = path, dict(parts), stack
        self.names, self.axes = tuple(names), tuple(axes)
        self.home = self.axes if home is None else tuple(home)

    sums: ClassVar[tuple[str, ...]] = ()
    """The arrays that are summed over other indices than they have: of a part of these they are not those."""

    _static: ClassVar[tuple[str, ...]] = ("path", "names", "axes", "home", "stack")
    """The static data of a packed leaf, beside its arrays."""

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Returns the arrays, and everything else."""
        children = tuple((PartKey(key), part) for key, part in self.parts.items())
        return children, (tuple(self.parts), *(getattr(self, name) for name in self._static))

    @classmethod
    def tree_unflatten(cls, static: Any, parts: Sequence[Any]) -> Self:
        """Makes a leaf of everything else, ``static``, and the arrays, ``parts``."""
        keys, *rest = static
        return cls(parts=dict(zip(keys, parts, strict=True)), **dict(zip(cls._static, rest, strict=True)))

    @property
    def sizes(self) -> dict[int, int]:
        """The size of every index."""
        pairs = zip(self.names, self.parts.values(), strict=True)
        return {name: n for names, part in pairs for name, n in zip(names, part.shape, strict=True)}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        sizes = self.sizes
        return tuple(math.prod(sizes[name] for name in axis) for axis in self.axes)

    @property
    def dtype(self) -> Any:
        """The dtype of the value."""
        return jnp.result_type(*self.parts.values())

    def following(self, before: "Packed") -> Self:
        """Returns it as of the dtype that its parts are of, where they were cast: ``before`` has those as they were."""
        return self

    def dense(self) -> jax.Array:
        """Multiplies the parts out, in full precision on every platform."""
        operands: list[Any] = []
        letters = {name: i for i, name in enumerate(self.sizes)}
        for names, part in zip(self.names, self.parts.values(), strict=True):
            operands += [jnp.asarray(part), [letters[name] for name in names]]
        order = [letters[name] for axis in self.axes for name in axis]
        return jnp.einsum(*operands, order, precision="highest").reshape(self.shape)

    def _with(self, **changes: Any) -> Self:
        own = {name: getattr(self, name) for name in ("parts", *self._static)}
        return type(self)(**{**own, **changes})

    def of(self, path: str) -> Self:
        """Returns it as that of another parameter."""
        return self._with(path=path)

    def transposed(self, order: Sequence[int]) -> Self:
        """Puts the axes into another order."""
        return self._with(axes=[self.axes[i] for i in order])

    def reshaped(self, shape: Sequence[int]) -> Self | None:
        """Merges and splits the axes; None if an index of a part would have to be split unevenly."""
        packed, groups = self, list[Indices]()
        left = [name for axis in self.axes for name in axis]
        for size in shape:
            group: Indices = ()
            while (have := math.prod(packed.sizes[name] for name in group)) != size:
                if not left:
                    return None
                have *= packed.sizes[left[0]]
                if have > size:
                    before = have // packed.sizes[left[0]]
                    if size % before or have % size:
                        return None
                    packed, pair = packed._split(left[0], size // before)
                    left[:1] = pair
                group += (left.pop(0),)
            groups.append(group)
        return packed._with(axes=groups)

    def _split(self, name: int, size: int) -> tuple[Self, Indices]:
        """One index as two, the outer one of ``size``."""
        new = max(self.sizes) + 1
        pair, parts = (name, new), {}
        for (key, part), names in zip(self.parts.items(), self.names, strict=True):
            if name in names:
                i = names.index(name)
                part = part.reshape(*part.shape[:i], size, part.shape[i] // size, *part.shape[i + 1 :])
            parts[key] = part

        def renamed(groups: Sequence[Indices]) -> list[Indices]:
            return [tuple(n for old in group for n in (pair if old == name else (old,))) for group in groups]

        return self._with(
            parts=parts, names=renamed(self.names), axes=renamed(self.axes), home=renamed(self.home)
        ), pair

    def squeezed(self, gone: Sequence[int]) -> Self:
        """Drops axes of size 1."""
        return self._with(axes=[axis for i, axis in enumerate(self.axes) if i not in gone])

    def expanded(self, shape: Sequence[int], places: Sequence[int]) -> Self | None:
        """Adds axes of size 1; None if any axis is really broadcast.

        Args:
          shape: afterwards.
          places: the axes of ``shape`` that the leaf's axes become.
        """
        if math.prod(shape) != math.prod(self.shape):
            return None
        axes: list[Indices] = [()] * len(shape)
        for place, axis in zip(places, self.axes, strict=True):
            axes[place] = axis
        return self._with(axes=axes)

    def mapped(self, function: Callable[[Any], Any]) -> Self:
        """Maps a function that keeps shapes over the arrays."""
        return self._with(parts={key: function(part) for key, part in self.parts.items()})

    def among(
        self, spec: Any, counts: Sequence[int], devices: int, node: Any
    ) -> tuple[Self, Self, Callable[[Self], Self]] | None:
        """Shares it out among devices, of which each has an equal part of an axis.

        The index of the device is one that a scan takes: each has layers of its own.

        Args:
          spec: of its value, a ``PartitionSpec``.
          counts: among how many devices each axis is shared out.
          devices: how many there are.
          node: the shard_map.

        Returns:
          It with an index for the devices, the specs of its arrays, and what of the one device's arrays makes it there;
          None if its arrays cannot be shared out as its value is.
        """
        cut = [i for i, count in enumerate(counts) if count > 1]
        if not cut:
            return self, self.mapped(lambda _: PartitionSpec()), lambda part: part
        axis, count = cut[0], counts[cut[0]]
        if len(cut) > 1 or count != devices or not self.axes[axis]:
            return None
        packed, name = self, self.axes[axis][0]
        if self.sizes[name] != count:
            split = self._shareable(name, count)
            if split is None:
                return None
            packed = split
        pairs = list(zip(packed.parts.items(), packed.names, strict=True))
        own = [(key, part, names) for (key, part), names in pairs if name in names or key not in self.sums]
        packed = packed._with(parts={key: part for key, part, _ in own}, names=[names for _, _, names in own])
        specs = {key: PartitionSpec(*(spec[axis] if each == name else None for each in names)) for key, _, names in own}

        def local(part: Self) -> Self:
            arrays = {
                key: jnp.squeeze(x, names.index(name)) if name in names else x
                for (key, x), names in zip(part.parts.items(), part.names, strict=True)
            }
            rest = [tuple(each for each in names if each != name) for names in part.names]
            axes = [tuple(each for each in group if each != name) for group in part.axes]
            return part._with(parts=arrays, names=rest, axes=axes, stack=(*part.stack, (name, node)))

        return packed, packed._with(parts=specs), local

    def _shareable(self, name: int, count: int) -> Self | None:
        """With an index split in two, the outer of so many; None if it cannot be."""
        return self._split(name, count)[0] if self.sizes[name] % count == 0 else None

    def cast(self, dtype: Any) -> Self:
        """Casts to another dtype, part by part."""
        return self._with(parts={key: part.astype(dtype) for key, part in self.parts.items()})

    def scaled(self, factor: Any) -> Self:
        """Multiplies the value by a number."""
        (key, part), *_ = self.parts.items()
        return self._with(parts={**self.parts, key: part * jnp.asarray(factor, part.dtype)})

    def sliced(self, scan: Any) -> Self:
        """Returns what the body of a scan over the first axis reads; its arrays still have that axis, for the scan."""
        axis, *rest = self.axes  # of one index or, if its size is 1, none
        count = self.sizes[axis[0]] if axis else 1
        parts, names = {}, []
        for (key, part), own in zip(self.parts.items(), self.names, strict=True):
            if axis and axis[0] in own:
                parts[key] = jnp.moveaxis(part, own.index(axis[0]), 0)
            else:
                parts[key] = jnp.broadcast_to(part, (count, *part.shape))
            names.append(tuple(name for name in own if name not in axis))
        return self._with(parts=parts, names=names, axes=rest, stack=(*self.stack, *((name, scan) for name in axis)))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def serializable(cls: type[Packed]) -> None:
    """Lets functions of such leaves be exported: what they are made of beside arrays goes into JSON."""
    export.register_pytree_node_serialization(
        cls,
        serialized_name=f"jaxcomp.{cls.__name__}",
        serialize_auxdata=lambda static: json.dumps(static).encode(),
        deserialize_auxdata=lambda data: _tuples(json.loads(data)),
        from_children=lambda static, parts: cls.tree_unflatten(static, tuple(parts)),
    )


serializable(Packed)


def pack(path: str, array: Any) -> Packed:
    """Makes a packed leaf of one part, the parameter itself.

    Args:
      path: of the parameter.
      array: its value.

    Example:
      >>> packed = pack("w", jnp.ones((1, 6, 4)))
      >>> packed.reshaped((2, 3, 4)).transposed((2, 0, 1)).axes, packed.shape
      (((2,), (1,), (3,)), (1, 6, 4))
    """
    kept = [i for i, n in enumerate(array.shape) if n != 1]
    axes = [(i,) if i in kept else () for i in range(len(array.shape))]
    return Packed(path, {"whole": array.reshape([array.shape[i] for i in kept])}, [tuple(kept)], axes)


def _is_packed(node: Any) -> bool:
    """Returns whether a node of a tree is a packed leaf."""
    return isinstance(node, Packed)


def densify(params: Any) -> Any:
    """Multiplies out every packed leaf of a tree: parameters for the function as it was before the rewrite.

    Args:
      params: any tree, as of :func:`jaxcomp.rewrite.factorize`.

    Returns:
      The tree with one array in place of each packed leaf.

    Example:
      >>> packed = Packed("w", {"in": jnp.ones((3, 1)), "out": jnp.ones((1, 2))}, [(0, -1), (-1, 1)], [(0,), (1,)])
      >>> densify({"w": packed})["w"].shape
      (3, 2)
    """
    return jax.tree.map(lambda leaf: leaf.dense() if _is_packed(leaf) else leaf, params, is_leaf=_is_packed)
