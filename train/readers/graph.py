"""A network as another tool's file tells it, operator after operator, and the pure function that it is."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.common.errors import UserError

Params = dict[str, dict[str, Any]]
Attributes = Mapping[str, Any]


class Operator(NamedTuple):
    """One of a graph.

    Attributes:
      kind: as its format calls it.
      ins: names of what it reads; empty: left out.
      outs: names of what it returns.
      attributes: what the file says of it.
      place: where it stands, for errors.
    """

    kind: str
    ins: tuple[str, ...]
    outs: tuple[str, ...]
    attributes: Attributes
    place: str


class Graph(NamedTuple):
    """Operators in an order in which each comes after what it reads.

    Attributes:
      path: the file, for errors.
      operators: all of them.
      inputs: names of the function's arguments.
      results: names of what it returns.
      constants: those that the file holds.
    """

    path: str
    operators: list[Operator]
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    constants: dict[str, np.ndarray]


class Rule(NamedTuple):
    """How JAX computes a kind of operator.

    Attributes:
      compute: ``compute(attributes, *operands)``: the result, or a tuple of all; what the file leaves out is None,
        and what is known beforehand a NumPy array.
      weights: of the operands that are parameters, where the file holds them, the position, the name, and how the
        file's array becomes JAX's.
    """

    compute: Callable[..., Any]
    weights: Mapping[int, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {}


Rules = Mapping[str, Rule]


class UnsupportedError(Exception):
    """What a rule cannot do; the message says what was asked for."""


def same(array: np.ndarray) -> np.ndarray:
    """A file's array as it is."""
    return array


class Network:
    """A graph as a function: ``network(params, *inputs)``; it can be jitted, differentiated and rewritten.

    Attributes:
      params: ``{operator: {role: array}}``, by kinds of operators and their numbers: ``params["Conv_0"]["kernel"]``.

    Example:
      >>> double = Operator("Scale", ("x", "two"), ("y",), {}, "operator 0")
      >>> rules = {"Scale": Rule(lambda attributes, x, factor: x * factor, {1: ("factor", same)})}
      >>> network = Network(Graph("a file", [double], ("x",), ("y",), {"two": np.float32([2, 3])}), rules)
      >>> network.params["Scale_0"]["factor"].tolist(), network(network.params, jnp.ones(2)).tolist()
      ([2.0, 3.0], [2.0, 3.0])
    """

    def __init__(self, graph: Graph, rules: Rules) -> None:
        """Finds the parameters, and computes what depends on constants alone.

        Raises:
          UserError: for operators that have no rule, all of them with where the first of each stands.
        """
        unknown = {each.kind: each.place for each in reversed(graph.operators) if each.kind not in rules}
        if unknown:
            said = ", ".join(f"{kind} ({place})" for kind, place in sorted(unknown.items()))
            raise UserError(
                f"{graph.path}: has operators without a rule here: {said}; known are {', '.join(sorted(rules))}"
            )
        self.__name__ = Path(graph.path).stem
        self._path, self._inputs, self._results, self._rules = graph.path, graph.inputs, graph.results, rules
        self._known, self._operators = dict(graph.constants), list[Operator]()
        for each in graph.operators:
            if each.ins and not all(not name or name in self._known for name in each.ins):
                self._operators.append(each)
                continue
            computed = self._computed(each, self._known)
            self._known |= {name: np.asarray(value) for name, value in computed.items()}
        self._homes: dict[str, tuple[str, str]] = {}
        self.params: Params = self._parameters()

    def __call__(self, params: Params, *inputs: jax.Array) -> Any:
        """The result, or a tuple of all.

        Raises:
          UserError: for inputs of another number, and for what a rule cannot do.
        """
        if len(inputs) != len(self._inputs):
            raise UserError(
                f"{self._path}: takes {len(self._inputs)} inputs ({', '.join(self._inputs)}), got {len(inputs)}"
            )
        known: dict[str, Any] = {**self._known, **dict(zip(self._inputs, map(jnp.asarray, inputs), strict=True))}
        known |= {name: params[operator][role] for name, (operator, role) in self._homes.items()}
        for each in self._operators:
            known |= self._computed(each, known)
        results = tuple(known[name] for name in self._results)
        return results[0] if len(results) == 1 else results

    def _computed(self, operator: Operator, known: Mapping[str, Any]) -> dict[str, Any]:
        operands = [known[name] if name else None for name in operator.ins]
        try:
            found = self._rules[operator.kind].compute(operator.attributes, *operands)
        except UnsupportedError as error:
            raise UserError(
                f"{self._path}: {operator.kind} ({operator.place}) has {error}, for which there is no rule"
            ) from error
        return dict(zip(operator.outs, found if isinstance(found, tuple) else (found,), strict=False))

    def _parameters(self) -> Params:
        """Takes out of the constants those that are weights: each belongs to the first operator that reads it."""
        params, count = Params(), Counter[str]()
        layouts = dict[str, Callable[[np.ndarray], np.ndarray]]()
        for each in self._operators:
            name = f"{each.kind}_{count[each.kind]}"
            count[each.kind] += 1
            for position, (role, prepared) in self._rules[each.kind].weights.items():
                own = each.ins[position] if position < len(each.ins) else ""
                if (
                    own in self._known
                    and np.issubdtype(self._known[own].dtype, np.floating)
                    and self._known[own].size > 1
                ):
                    params.setdefault(name, {})[role] = jnp.asarray(prepared(self._known.pop(own)))
                    self._homes[own] = name, role
                    layouts[own] = prepared
        for each in self._operators:
            self._agree(each, layouts)
        return params

    def _agree(self, operator: Operator, layouts: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> None:
        """Refuses an operand that is not in the layout which the operator reads: its home's, or else the file's."""
        for position, name in enumerate(operator.ins):
            _, needed = self._rules[operator.kind].weights.get(position, ("", same))
            single = not name or (name in self._known and self._known[name].size <= 1)
            if single or layouts.get(name, same) is needed:
                continue
            home, _ = self._homes.get(name, ("", ""))
            said = f"which {home} keeps in another layout" if home else "which is no weight"
            raise UserError(
                f"{self._path}: {operator.kind} ({operator.place}) has operand {position}, {said}, "
                "for which there is no rule"
            )
