"""The house: what stands on which floor, that no stairs go up or round, that no room outgrows the others; its words."""

import ast
import functools
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import jaxcomp

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"core"},
    {"augment", "prune", "quant", "lowrank", "share", "distill", "combine", "optim", "measure", "errors"},
    {"trace", "pack"},
    {"observe"},
    {"rewrite"},
    {"posttrain", "nnx", "export"},
    {"search"},
)
"""What is on one floor does not know of each other."""

LAWS = {"laws", "tpu"}
"""Tests of more than one package."""


def _modules(package: str) -> dict[str, Path]:
    found = {path.relative_to(ROOT).with_suffix("").parts: path for path in (ROOT / package).rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for parts, path in found.items()}


def _imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that one imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {whole if whole in known else str(node.module) for whole in names.values()}
    return found & known.keys()


MODULES = _modules("jaxcomp")
IMPORTS = {name: _imports(path, MODULES) for name, path in MODULES.items()}
FLOOR = {f"jaxcomp.{room}": floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_importing_jaxcomp_imports_none_of_its_packages() -> None:
    code = "import sys, jaxcomp; print({name.split('.')[1] for name in sys.modules if name.startswith('jaxcomp.')})"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert ast.literal_eval(printed) == {"core", "errors", "combine"}
    assert all(hasattr(jaxcomp, name) for name in jaxcomp.__all__)


def test_every_package_has_a_floor() -> None:
    rooms = {_room(name) for name in MODULES} - {"jaxcomp", "jaxcomp.__main__"}
    assert rooms == FLOOR.keys()


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_imports_go_down(room: str) -> None:
    own = {name: used for name, used in IMPORTS.items() if _room(name) == room}
    up = [(name, each) for name, used in own.items() for each in used if _room(each) != room
          and FLOOR.get(_room(each), len(FLOORS)) >= FLOOR[room]]  # fmt: skip
    assert not up


@pytest.mark.parametrize("package", ["jaxcomp", "train"])
def test_imports_go_round_nowhere(package: str) -> None:
    modules = _modules(package)
    TopologicalSorter({name: _imports(path, modules) for name, path in modules.items()}).prepare()


def test_what_scripts_share_imports_no_script() -> None:
    modules = _modules("train")
    scripts = {name for name, path in modules.items() if path.parent == ROOT / "train"} - {"train"}
    for room in ("common", "models", "configs"):
        for name in (each for each in modules if each.startswith(f"train.{room}")):
            assert not _imports(modules[name], modules) & scripts, name


def _lines(path: Path) -> int:
    """The lines of code: no comments, docstrings or empty ones."""
    statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt)]
    texts = [node for node in statements if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    spans = [range(node.lineno, (node.end_lineno or 0) + 1) for node in statements if not hasattr(node, "body")]
    lines = {*itertools.chain(*spans), *(node.lineno for node in statements)}
    return len(lines - {*itertools.chain(*(range(node.lineno, (node.end_lineno or 0) + 1) for node in texts))})


def test_no_package_is_more_than_a_fifth_of_the_code() -> None:
    sizes = {path: _lines(path) for path in MODULES.values()}
    whole, folders, rooms = sum(sizes.values()), Counter[Path](), Counter[str]()
    for name, path in MODULES.items():
        folders[path.parent] += sizes[path]
        rooms[_room(name)] += sizes[path]
    assert max(folders.values()) < whole / 5, folders.most_common(3)
    assert max(rooms.values()) < whole / 4, rooms.most_common(3)  # with the packages in it


@pytest.mark.parametrize("package", ["jaxcomp", "train"])
def test_tests_are_where_what_they_test_is(package: str) -> None:
    base = ROOT / "tests" / ("train" if package == "train" else "")
    folders = {path.parent.relative_to(base) for path in base.rglob("test_*.py")}
    for folder in folders:
        first = next(iter(folder.parts), "")
        if first not in LAWS and (package == "train" or first != "train"):
            assert (ROOT / package / folder).is_dir(), f"tests of {folder}, which {package} has not"


VERBS = """
Adds Aligns Alternates Applies Arranges Assigns Averages Blanks Broadcasts Builds Calls Carries Casts Changes Checks
Chooses Clips Codes Collects Combines Compares Compiles Completes Compresses Computes Concatenates Converts Convolves
Correlates Counts Crops Cuts Decodes Decouples Deflates Dequantizes Describes Divides Draws Drops Embeds Emits Encodes
Equalizes Erases Estimates Evaluates Exchanges Expands Factors Fetches Fills Finds Fits Fixes Flattens Folds Follows
Freezes Fuses Gives Groups Guesses Hides Imports Inflates Interpolates Intersects Inverts Joins Keeps Labels Lays Learns
Leaves Lets Lists Loads Looks Makes Maps Marks Masks Measures Merges Mirrors Mixes Moves Multiplies Names Normalizes
Notes Packs Pads Passes Pastes Places Plans Prints Probes Projects Prunes Puts Quantizes Raises Ranks Reads Rebuilds
Refuses Removes Reorders Repeats Replaces Replicates Reports Reshapes Resizes Returns Reverses Rounds Runs Saves Says
Scores Searches Selects Sets Shares Shortens Shows Shrinks Slices Solves Sorts Spaces Spells Splits Spreads Squeezes
Stacks Starts Stretches Subtracts Sums Tabulates Takes Tells Ties Traces Trains Translates Transposes Turns Unpacks
Updates Uses Views Wraps Writes Yields Zeroes
"""
"""The words that docstrings of functions open with: verbs, in the third person."""

SHARED = {
    ("node", "operands"), ("frame", "operands"), ("run", "node", "operands"), ("emitter", "node", "operands"),
    ("graph", "node", "operands"), ("analysis", "node"),
}  # fmt: skip
"""Arguments of functions in a table, or of a hook: documented where its type or its base class is."""


def _public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions whose names, and whose classes' names, begin without an underscore; no properties."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node.body, f"{prefix}.{node.name}")
        elif isinstance(node, ast.FunctionDef) and not (node.name.startswith("_") or _is_property(node)):
            yield f"{prefix}.{node.name}", node


def _is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(each).endswith("property") for each in node.decorator_list)


@functools.cache
def _functions() -> dict[str, ast.FunctionDef]:
    trees = {name: ast.parse(path.read_text()).body for name, path in MODULES.items()}
    return {name: node for module, body in trees.items() for name, node in _public(body, module)}


def test_docstrings_of_functions_open_with_a_verb() -> None:
    texts = {name: ast.get_docstring(node) for name, node in _functions().items()}
    assert not [name for name, text in texts.items() if text is None and name.rpartition(".")[0] in MODULES]
    words = {name: re.split(r"\W", text, maxsplit=1)[0] for name, text in texts.items() if text is not None}
    verbs = {*VERBS.split()}
    assert not {name: word for name, word in words.items() if word not in verbs}, "a verb that is new goes into VERBS"


def test_docstrings_of_functions_name_their_arguments() -> None:
    lacking = {}
    for name, node in _functions().items():
        own, text = node.args, ast.get_docstring(node)
        given = [*own.posonlyargs, *own.args, own.vararg, *own.kwonlyargs, own.kwarg]
        names = [each.arg for each in given if each is not None and each.arg not in ("self", "cls")]
        if text is not None and len(names) > 1 and tuple(names) not in SHARED:
            lacking[name] = [each for each in names if not re.search(rf"\b{each}\b", text)]
    assert not {name: names for name, names in lacking.items() if names}


def test_no_docstring_opens_with_a_pronoun() -> None:
    opens = re.compile(r'^\s*r?"""(?:What|That|Those|Of|Whose|Who|Its)\b.*', re.MULTILINE)
    found = {name: opens.findall(path.read_text()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in found.items() if lines}
