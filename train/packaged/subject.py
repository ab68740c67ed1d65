"""What a packaged network is to this package: files, functions, what they are for, and by what they are judged."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from train.common.errors import UserError
from train.common.small import Bits, unchanged

Run = Callable[..., Any]
"""Of a network's inputs its results, NumPy arrays or JAX's."""


class Part(NamedTuple):
    """One file of a package.

    Attributes:
      path: of the file.
      function: ``function(params, *inputs)``, as it was read.
      params: its parameters.
      original: the file in its own runtime.
      batches: calibration batches of ``function``, of one shape.
      setting: how small it is to be, as of :class:`train.common.small.Setting`.
      places: positions of each convolution's result that count; None: all.
      bits: of the grids of weights.
      each_output: whether each output has a scale of its own.
      counts: what of the results does, as of :class:`train.common.small.Smaller`.
    """

    path: Path
    function: Callable[..., Any]
    params: Any
    original: Run
    batches: list[Any]
    setting: str
    places: int | None = 256
    bits: Bits = 6
    each_output: bool = False
    counts: Callable[[Any], Any] | None = unchanged


class Subject(NamedTuple):
    """What is done with one or several files.

    Attributes:
      parts: by name.
      answers: what they give, on held-out data; of the functions of all parts.
      compared: of such answers and the original's, figures.
      drawn: writes a picture of both answers to a path; None: there is nothing to see.
    """

    parts: Mapping[str, Part]
    answers: Callable[[Mapping[str, Run]], Any]
    compared: Callable[[Any, Any], dict[str, float]]
    drawn: Callable[[Path, Any, Any], None] | None = None


class Folders(NamedTuple):
    """Where packages are.

    Attributes:
      npm: the folder ``node_modules`` that npm has installed into.
    """

    npm: Path

    def of_npm(self, package: str, file: str) -> Path:
        """A file of an npm package.

        Raises:
          UserError: if it is not there; it says how it is installed.
        """
        path = self.npm / package / file
        if not path.is_file():
            raise UserError(f"{path} is missing: npm install --prefix {self.npm.parent} {package}, or give --npm")
        return path


def of_pypi(package: str, file: str, project: str) -> Path:
    """A file of a Python package, which is not imported.

    Raises:
      UserError: if it is not there; it says how it is installed.
    """
    spec = importlib.util.find_spec(package)
    path = Path(next(iter(spec.submodule_search_locations or ()), "")) / file if spec else Path()
    if not path.is_file():
        raise UserError(f"{package}/{file} is missing: pip install --no-deps {project}")
    return path
