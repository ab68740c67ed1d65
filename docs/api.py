"""Writes the pages of the API reference, by kind: the public names of each package, under the files that define them.

A package's public names are those that its ``__init__`` imports, or those of its ``__all__`` where it has one; a file's
docstring says what they have in common. So a new function is in the reference as soon as it is public.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class Kind(NamedTuple):
    """A page of the reference.

    Attributes:
      title: its heading.
      text: what calls of this kind have in common.
      packages: whose names it lists; those that do not exist are left out.
    """

    title: str
    text: str
    packages: tuple[str, ...]


KINDS = {
    "views": Kind(
        "Views",
        "A view is a :class:`jaxcomp.Compressor`: ``init(params)``, ``update(params, state, step)`` and "
        "``apply(params, state)`` show parameters as if they were compressed, inside jit, without changing a shape.",
        (
            "jaxcomp",
            "jaxcomp.prune",
            "jaxcomp.quant",
            "jaxcomp.lowrank",
            "jaxcomp.share",
            "jaxcomp.distill",
            "jaxcomp.optim",
        ),
    ),
    "augmentation": Kind(
        "Augmentation",
        "A function ``(key, images, labels) -> (images, labels)`` of a batch, inside jit or not.",
        ("jaxcomp.augment",),
    ),
    "facts": Kind(
        "Facts",
        "What can be found by looking at a function: ``f(apply_fn, params, *example)`` gives sites, groups, axes and "
        "costs. No example is computed; shapes will do.",
        ("jaxcomp.trace",),
    ),
    "statistics": Kind(
        "Statistics",
        "What is found by running a function on data: ``f(apply_fn, params, batches)`` gives trees of numbers.\n\n"
        ".. automodule:: jaxcomp.observe.batches",
        ("jaxcomp.observe",),
    ),
    "rewrites": Kind(
        "Rewrites",
        "``f(apply_fn, params, *example, ...)`` gives ``(new_fn, new_params)``: a new function of fewer or smaller "
        "parameters. It is pure, and can be jitted, differentiated, sharded, exported and rewritten again.",
        ("jaxcomp.rewrite", "jaxcomp.nnx"),
    ),
    "post-training": Kind(
        "Post-training",
        "``f(apply_fn, params, batches, ...)`` gives better parameters of the same function, and a report.",
        ("jaxcomp.posttrain",),
    ),
    "storage": Kind(
        "Storage",
        "Files of parameters, and of functions with their parameters.",
        ("jaxcomp.pack", "jaxcomp.export"),
    ),
    "search": Kind("Search", "Which layer gets how many bits.", ("jaxcomp.search",)),
    "measure": Kind("Measure", "What was reached: tables, figures, reports.", ("jaxcomp.measure",)),
    "errors": Kind("Errors", "Every one is a :class:`jaxcomp.errors.JaxcompError`.", ("jaxcomp.errors",)),
}


def write(folder: Path) -> None:
    """Writes a page a kind into a folder, leaves those alone that would not change, and drops pages of names gone."""
    packages = [package for kind in KINDS.values() for package in map(_found, kind.packages) if package]
    there = {f"{p.__name__}.{name}.rst" for p in packages for names in public(p).values() for name in names}
    for page in (folder / "generated").glob("*.rst"):
        if page.name not in there:
            page.unlink()
    for name, kind in KINDS.items():
        path, text = folder / f"{name}.rst", "\n".join(_page(kind))
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _page(kind: Kind) -> Iterator[str]:
    yield from (kind.title, "=" * len(kind.title), "", kind.text, "")
    for package in filter(None, map(_found, kind.packages)):
        name = "jc" + package.__name__.removeprefix("jaxcomp")
        if len(kind.packages) > 1:
            yield from (name, "-" * len(name), "")
        if hasattr(package, "__path__") and package.__name__ != "jaxcomp":
            yield from (inspect.getdoc(package) or "", "")
        for module, names in public(package).items():
            if module != package.__name__ and module.rpartition(".")[2] not in names:
                yield from (f".. module:: {module}", "")
            about = (inspect.getdoc(importlib.import_module(module)) or "").split("\n\n")[0].replace("\n", " ")
            yield from (f".. rubric:: {re.split(r'[:;,(]|[.] |[.]$', about)[0]}", "")
            yield from (f".. currentmodule:: {package.__name__}", "", ".. autosummary::", "   :toctree: generated")
            yield from ("   :nosignatures:", "", *(f"   {each}" for each in names), "")


def _found(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def public(package: ModuleType) -> dict[str, list[str]]:
    """The public names of a package, by the module that each comes from; of a module, those that it defines."""
    if not hasattr(package, "__path__"):
        own = [name for name, value in vars(package).items() if getattr(value, "__module__", "") == package.__name__]
        return {package.__name__: list(getattr(package, "__all__", [name for name in own if not name.startswith("_")]))}
    named: dict[str, list[str]] = {}
    listed = getattr(package, "__all__", None)
    for node in ast.parse(inspect.getsource(package)).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jaxcomp."):
            for alias in node.names:
                name = alias.asname or alias.name
                asked = not name.startswith("_") and (listed is None or name in listed)
                asked &= name != "JaxcompError" or package.__name__ != "jaxcomp"  # errors have a page of their own
                if asked and not isinstance(getattr(package, name), ModuleType):
                    named.setdefault(node.module, []).append(name)
    return named
