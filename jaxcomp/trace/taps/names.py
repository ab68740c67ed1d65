"""Names: what values of a program are called, by module, parameter, ``checkpoint_name`` and what follows."""

import difflib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace.account import readers
from jaxcomp.trace.ir import SITES, Frame, Node, Program, Value
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.taps.flow import Flow
from jaxcomp.trace.taps.places import Places, bodies

STAGES = ("input", "normed", "activated")
"""Values that can be asked for beside a layer's result."""

Keys = tuple[str, ...]


class Named(NamedTuple):
    """The values that a name means.

    Attributes:
      values: its results, one a call, or one a result.
      inputs: its inputs.
      why: why it gives nothing, if so.
    """

    values: tuple[Value, ...] = ()
    inputs: tuple[Value, ...] = ()
    why: str = ""


class Names:
    """The names of a program's values.

    A module, where the program has its scopes (Linen's, ``jax.named_scope``): what leaves it. Where it has none, the
    parameters below a path: the first value through which all passes that is computed with them. A parameter: what the
    matmul, or whatever it is that mixes it with the inputs, gives.
    """

    def __init__(self, program: Program) -> None:
        """Takes a program."""
        self._program, self.places = program, Places(program)
        self.origins = Origins(program)
        self.flow = Flow(program, self.places, self.origins)
        self._mixers = readers(program, self.origins)
        self.paths = _without_collections(program.paths)
        self.modules: set[str] = set()
        self._known: dict[str, Named] = {}
        self._find: dict[str, Callable[[], Named]] = {}
        for path in program.paths:
            own = self.paths[path].split("/")
            for i in range(1, len(own)):
                self.modules.add("/".join(own[:i]))
                self._find.setdefault("/".join(own[:i]), self._finder("/".join(own[:i])))
            if path:
                self._find["/".join(own)] = self._finder("/".join(own))
        self._find |= {name: functools.partial(Named, *own) for name, own in _Scopes(program, self).found().items()}

    def __iter__(self) -> Iterator[str]:
        """All names but those of parameters, in the order in which they are computed."""
        order, leaves = self.places.order, set(self.paths.values())
        names = [name for name in self._find if name not in leaves]

        def when(name: str) -> int:
            makers = [self.places.maker.get(value) for value in self.of(name).values]
            return min((-1 if node is None else order[node] for node in makers), default=len(order))

        return iter(sorted(names, key=when))

    def of(self, name: str) -> Named:
        """Returns what has a name, spelled in full."""
        if name not in self._known:
            self._known[name] = self._find[name]()
        return self._known[name]

    def __call__(self, spelled: str) -> Value:
        """The value that is meant.

        Raises:
          ArgumentError: if it names nothing, several values, or one that cannot be led out.
        """
        name, index, stage = self._parsed(spelled)
        own = self.of(name)
        if own.why:
            raise ArgumentError(f"{spelled!r} cannot be tapped: {own.why}")
        value = self._one(spelled, name, own.inputs if stage == "input" else own.values, index, stage)
        if stage in ("normed", "activated"):
            found = self.flow.normed(value) if stage == "normed" else self.flow.activated(value)
            if isinstance(found, str):
                raise ArgumentError(f"{spelled!r} cannot be tapped: {found}")
            value = found
        value = self.places.lifted(value)
        why = self.places.why_not(value)
        if why:
            raise ArgumentError(f"{spelled!r} cannot be tapped: it is {why}")
        return value

    def knows(self, spelled: str) -> bool:
        """Returns whether a spelling names exactly one value that can be tapped."""
        try:
            self(spelled)
        except ArgumentError:
            return False
        return True

    def _one(self, spelled: str, name: str, values: Sequence[Value], index: int | None, stage: str) -> Value:
        what = "reads" if stage == "input" else "gives"
        if not values:
            raise ArgumentError(f"{spelled!r} cannot be tapped: {name} {what} nothing that is computed of the inputs")
        if index is None and len(values) == 1:
            return values[0]
        if index is not None and index < len(values):
            return values[index]
        after = f":{stage}" if stage else ""
        each = [f"{name}[{i}]{after} {list(self.places.shape(value))}" for i, value in enumerate(values)]
        more = f", ... ({len(each)} in all)" if len(each) > 8 else ""
        raise ArgumentError(
            f"{spelled!r} names {'none' if index is not None else 'more than one'} of the {len(values)} values that "
            f"{name} {what} (one a call, or one a result): give one of {', '.join(each[:8])}{more}"
        )

    def _parsed(self, spelled: str) -> tuple[str, int | None, str]:
        match = (
            re.fullmatch(r"(.*?)(?:\[(\d+)\])?(?::(\w*))?", spelled, re.DOTALL) if spelled not in self._find else None
        )
        name, index, stage = (spelled, None, None) if match is None else match.groups()
        if stage is not None and stage not in STAGES:
            raise ArgumentError(f"{spelled!r} asks for {stage!r}: after the colon goes one of {', '.join(STAGES)}")
        return self._whole(spelled, name), None if index is None else int(index), stage or ""

    def _whole(self, spelled: str, name: str) -> str:
        """A name in full, of which the end was given."""
        inner = {path: own for path, own in self.paths.items() if path != own}
        name = inner.get(name, name)
        if name not in self._find and any(path.partition("/")[0] == name.partition("/")[0] for path in inner):
            name = name.partition("/")[2] or name
        if name in self._find:
            return name
        ends = [full for full in self._find if full.endswith(f"/{name}")] if name else []
        if len(ends) == 1:
            return ends[0]
        if ends:
            told = ", ".join(ends[:8]) + (f", ... ({len(ends)} in all)" if len(ends) > 8 else "")
            raise ArgumentError(f"{spelled!r} names more than one: {told}")
        near = difflib.get_close_matches(name, list(self._find), 5, 0.0)
        raise ArgumentError(
            f"{spelled!r} names no value of the function; the nearest are {', '.join(map(repr, near)) or 'none'}. "
            "jc.trace.values(apply_fn, params, *example) lists them all"
        )

    def _finder(self, name: str) -> Callable[[], Named]:
        return lambda: self._layer(name)

    def _layer(self, name: str) -> Named:
        """The values computed with the parameters at or below a path."""
        own = [path for path in self._program.paths if f"{self.paths[path]}/".startswith(f"{name}/")]
        mixed = {path: nodes for path in own if (nodes := self._mixing(path))}
        if not mixed:
            return Named(why="its parameters are not read on the way to results")
        counts = {len(nodes) for nodes in mixed.values()}
        alike = len(counts) == 1
        calls = list(zip(*mixed.values(), strict=True)) if alike else [tuple(itertools.chain(*mixed.values()))]
        found = [self._call(list(dict.fromkeys(nodes))) for nodes in calls]
        why = next((each.why for each in found if each.why), "")
        return Named(
            tuple(v for each in found for v in each.values), tuple(v for each in found for v in each.inputs), why
        )

    def _mixing(self, path: str) -> list[Node]:
        """The nodes that mix a parameter with the inputs on the way to results: not the loops around them."""
        nodes = [node for node in self._mixers.get(path, []) if node in self.places.frame]
        nodes = [node for node in nodes if any(out in self.flow.live for out in node.outs)]
        outer = {each for node in nodes for each, _ in self.places.around[self.places.frame[node]]}
        return [node for node in nodes if node not in outer]

    def _call(self, nodes: list[Node]) -> Named:
        _, here = self.places.common(nodes)
        end = self.flow.meeting(here)
        if end is None:
            return Named(why="what is computed with its parameters comes together in no value: name a part of it")
        if len(end.outs) != 1:
            return Named(why=f"it comes together in {end.op}, which has {len(end.outs)} results ({end.place})")
        first = min(nodes, key=self.places.order.__getitem__)
        inputs = [self._uncast(v) for v in first.ins[:2] if self.origins[v].live] if first.op in SITES else []
        return Named((self.flow.settled(end.outs[0]),), tuple(inputs))

    def _uncast(self, value: Value) -> Value:
        """The input of a site, before a cast of its own."""
        maker = self.places.maker.get(value)
        is_cast = maker is not None and maker.op == "convert_element_type" and len(self.flow.readers(value)) == 1
        return maker.ins[0] if maker is not None and is_cast else value


class _Scopes:
    """The inputs and results of modules, by the scopes in which nodes were traced."""

    def __init__(self, program: Program, names: Names) -> None:
        self._names, self._program = names, program
        self._live, self._origins = names.flow.live, names.origins
        self._gives: dict[Keys, dict[Value, None]] = {}
        self._reads: dict[Keys, dict[Value, None]] = {}

    def found(self) -> dict[str, Named]:
        """By name, those that give anything."""
        self._walk(self._program.frame, ())
        named = {"/".join(keys): self._named(keys) for keys in self._gives}
        roots = {keys[0] for keys in self._gives}
        inner = {name.partition("/")[2]: own for name, own in named.items() if "/" in name}
        # Linen puts the name of the class first, which is in no path.
        is_class = len(roots) == 1 and not roots & self._names.modules and inner.keys() & self._names.modules
        return inner if is_class else named

    def _named(self, keys: Keys) -> Named:
        lifted = self._names.places.lifted
        gives = tuple(dict.fromkeys(map(lifted, self._gives[keys])))
        return Named(gives, tuple(dict.fromkeys(map(lifted, self._reads.get(keys, {})))))

    def _walk(self, frame: Frame, around: Keys) -> None:
        keys = {node: _keys(node.scope) for node in frame.nodes}
        made = {out: keys[node] for node in frame.nodes for out in node.outs}
        for value in frame.outs:
            if value in made:
                self._leaves(value, made[value], around)
        for node in frame.nodes:
            if any(out in self._live for out in node.outs):
                for value in dict.fromkeys(node.ins):
                    self._passes(value, made.get(value, around), keys[node], around)
            for body in bodies(node):
                self._walk(body, keys[node])

    def _passes(self, value: Value, maker: Keys, reader: Keys, around: Keys) -> None:
        """Notes that a value goes from one module to another."""
        if value.const is not None or not self._origins[value].live:
            return
        shared = next((i for i, pair in enumerate(zip(maker, reader, strict=False)) if pair[0] != pair[1]), None)
        shared = min(len(maker), len(reader)) if shared is None else shared
        for i in range(max(shared, len(around)) + 1, len(reader) + 1):
            self._reads.setdefault(reader[:i], {})[value] = None
        self._leaves(value, maker, reader[:shared])

    def _leaves(self, value: Value, maker: Keys, into: Keys) -> None:
        if value in self._live and self._origins[value].live:
            for i in range(len(into) + 1, len(maker) + 1):
                self._gives.setdefault(maker[:i], {})[value] = None


def _keys(scope: str) -> Keys:
    """The modules of a scope, without methods and transformations."""
    if "transpose(" in scope:
        return ()
    inner = re.sub(r"\b\w+\(([^()]*)\)", r"\1", scope)
    return tuple(key for key in inner.split("/") if key and "." not in key and "(" not in key)


def _without_collections(paths: Sequence[str]) -> dict[str, str]:
    """By path, that without the collection of Linen's variables that it begins with."""
    tops = {path.partition("/")[0] for path in paths}
    linen = "params" in tops and all("/" in path for path in paths)
    return {path: path.partition("/")[2] if linen else path for path in paths}
