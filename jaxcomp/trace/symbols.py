"""Named sizes: in a function that is exported for any batch, axes have names; numbers stand in for the analysis."""

import ast
import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import compat

SCALES = (22, 88, 352, 1408)
"""Numbers for names, the smallest first: none is another axis's size by chance, all are even many times over."""

_FUNCTIONS: dict[str, Callable[..., int]] = {"floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b} | {
    "max": max,
    "min": min,
}


class Numbers:
    """Numbers for the names of one program's sizes, chosen when all of its sizes are known.

    Numbers are such that no axis comes out shorter than 2, if any are: what has an axis of one size for all of its
    sizes is analyzed alike for all.
    """

    def __init__(self) -> None:
        self._scale = SCALES[0]
        self._places: dict[str, int] = {}

    def settle(self, sizes: Sequence[Any]) -> None:
        """Chooses a number for each symbolic size that has none yet."""
        distinct = list({str(size): size for size in sizes}.values())
        for self._scale in SCALES:
            if all(self(size) > 1 for size in distinct):
                return

    def __call__(self, size: Any) -> int:
        """The number of a size, which may be one."""
        return self._evaluated(_parsed(str(size))) if compat.is_symbolic(size) else size

    def shape(self, sizes: Sequence[Any]) -> tuple[int, ...]:
        """Replaces symbolic sizes by their numbers."""
        return tuple(map(self, sizes))

    def within(self, setting: Any) -> Any:
        """Replaces symbolic sizes in a primitive's parameter by their numbers."""
        if compat.is_symbolic(setting):
            return self(setting)
        if type(setting) in (tuple, list):
            return type(setting)(map(self.within, setting))
        return setting

    def _evaluated(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(int(value)):
                return value
            case ast.Name(name):
                # Odd multiples: two names are not the same size.
                return self._scale * (2 * self._places.setdefault(name, len(self._places)) + 1)
            case ast.UnaryOp(ast.USub(), operand):
                return -self._evaluated(operand)
            case ast.Call(ast.Name(name), args) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*map(self._evaluated, args))
            case ast.BinOp(left, op, right):
                a, b = self._evaluated(left), self._evaluated(right)
                match op:
                    case ast.Add():
                        return a + b
                    case ast.Sub():
                        return a - b
                    case ast.Mult():
                        return a * b
                    case ast.Pow():
                        return int(a**b)
        raise ArgumentError(
            f"the size {ast.unparse(node)} has a form that jaxcomp does not read: sums, products, powers, quotients, "
            "remainders, max and min of names and numbers are read; trace the function for sizes that are numbers"
        )


@functools.lru_cache(maxsize=4096)
def _parsed(size: str) -> ast.expr:
    """Parses what JAX writes for a size: the syntax of ``jax.export.symbolic_shape``."""
    return ast.parse(size.replace("^", "**"), mode="eval").body
