"""A program that was saved computes what the function computed, to the bit, without the function."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxcomp import export, pack
from jaxcomp.core.errors import ArgumentError, ArtifactError, MissingExtraError
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Grid, Note
from jaxcomp.pack import layout
from jaxcomp.rewrite import Scheme, choose, quantize, shrink
from tests.rewrite.channels.test_models import CASES, DISTINCT, prepared
from tests.rewrite.parity import distance

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
PARAMS = {
    name: jnp.asarray(RNG.standard_normal(shape), jnp.float32)
    for name, shape in {"a": (3, 8), "b": (8,), "c": (8, 2)}.items()
}


def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]


def bits(tree: Any) -> list[bytes]:
    """The very bits of a tree's leaves."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.jcz"


@pytest.mark.parametrize("name", ["cnn", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in DISTINCT[1:])])
def test_a_shrunk_model_at_another_batch_size(path: Path, name: str) -> None:
    model, variables = prepared(CASES[name])
    example = CASES[name].example
    new, small = shrink(model, variables, example, keep=choose(0.4, "random", seed=0))
    export.save(path, new, small, example, shapes="batch, ...", vjp_order=1)
    program, loaded = export.load(path)
    assert program.exported.platforms == ("cpu", "tpu", "cuda")
    assert bits(loaded) == bits(small)
    more = jnp.concatenate([example, example[:1] + 1])
    out, wanted = jax.jit(program)(loaded, more), jax.jit(new)(small, more)
    assert list(named_leaves(out)) == list(named_leaves(wanted))
    assert bits(out) == bits(wanted)


def test_gradients(path: Path) -> None:
    def loss(f: Any) -> Any:
        return jax.grad(lambda p, x: (f(p, x) ** 2).sum(), (0, 1))

    new, small = shrink(apply_fn, PARAMS, X, keep={"a": np.arange(8) < 5})
    sizes = [export.save(path, new, small, X, shapes="n, ...", vjp_order=order) for order in (1, 0)]
    program, loaded = export.load(path)
    assert sizes[0] > sizes[1]
    with pytest.raises(ArgumentError, match="save it with vjp_order=1"):
        loss(program)(loaded, X)
    export.save(path, new, small, X, shapes="n, ...", vjp_order=1)
    program, loaded = export.load(path)
    assert distance(loss(new)(small, X), loss(program)(loaded, X)) <= 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_a_new_process_needs_no_code_of_the_model(path: Path, packed: bool) -> None:
    new, small = shrink(apply_fn, PARAMS, X, keep={"a": np.arange(8) < 5})
    if packed:
        new, small = quantize(new, small, X, scheme=Scheme(bits=4, inputs=None))
    export.save(path, new, small, X, shapes="n, ...")
    code = """if True:
        import sys, jax.numpy as jnp, numpy as np, jaxcomp as jc
        program, params = jc.export.load(sys.argv[1])
        print(np.asarray(program(params, jnp.asarray(np.load(sys.argv[2])))).tobytes().hex())
        assert not {"flax", "tests"} & sys.modules.keys()
    """
    np.save(path.with_suffix(".npy"), np.asarray(X[:3]))
    command = [sys.executable, "-c", code, str(path), str(path.with_suffix(".npy"))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == np.asarray(jax.jit(new)(small, X[:3])).tobytes().hex()


def test_parameters_are_stored_in_their_smallest_form(path: Path) -> None:
    levels = RNG.integers(-100, 101, (64, 64)) * (RNG.random((64, 64)) < 0.05)
    params = {"q/0": jnp.asarray(levels, jnp.float32) * jnp.float32(0.1), "h": jnp.ones((64, 2), jnp.bfloat16)}
    grid = Grid(jnp.full((1, 1), 0.1), jnp.zeros((1, 1), jnp.int32))

    def product(p: Any, x: jax.Array) -> jax.Array:
        return (x @ p["q/0"]).astype(jnp.bfloat16) @ p["h"]

    size = export.save(path, product, params, jnp.ones((1, 64)), notes={"q/0": Note(grid=grid)}, metadata={"seed": 1})
    kinds = {row.path: row.kind for row in pack.inspect(path).tensors}
    assert kinds["params/q/0"].startswith("codes+")
    assert size < 64 * 64
    deflated = path.with_name("deflated.jcz")
    export.save(deflated, product, params, jnp.ones((1, 64)), notes={"q/0": Note(grid=grid)}, coder="deflate")
    assert not any(row.kind.endswith(("range", "pattern")) for row in pack.inspect(deflated).tensors)
    assert bits(export.load(deflated)[1]) == bits(params)
    program, loaded = export.load(path)
    assert program.metadata == {"seed": 1}
    assert bits(loaded) == bits(params)
    x = jnp.asarray(RNG.standard_normal((1, 64)), jnp.float32)
    assert bits(program(loaded, x)) == bits(jax.jit(product)(params, x))
    about = pack.inspect(path).metadata["export"]
    assert (about["jax"], about["platforms"], about["vjp_order"]) == (jax.__version__, ["cpu", "tpu", "cuda"], 0)


class Pair(NamedTuple):
    """Fields whose order is not that of their names."""

    z: Any
    a: Any


class Quantity(NamedTuple):
    """A field of the name by which an NNX variable holds its array."""

    value: Any
    scale: Any


def by_path(tree: Any) -> dict[str, list[bytes]]:
    """The bits of each leaf, by the path that files call it."""
    return {leaf.name: bits(leaf.value) for leaf in layout.rows(tree)}


CONTAINERS = {
    "tuple": lambda w, v: (w, [v]),
    "frozen": lambda w, v: FrozenDict({"b": {"a": w}, "a": v}),
    "named": Pair,
    "value": lambda w, v: {"q": Quantity(w, v)},
    "nnx": lambda w, v: nnx.State({"w": nnx.Param(w), "v": nnx.BatchStat(v)}),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_any_containers_of_parameters_inputs_and_results(path: Path, kind: str) -> None:
    w, v = X[:3], jnp.float32(2)
    tree = CONTAINERS[kind](w, v)

    def function(p: Any, q: Any, key: jax.Array) -> Any:
        doubled = jax.tree.map(lambda a, b: a + 2 * b, p, q)
        return doubled, jax.random.normal(key, (2,)), None

    other, key = jax.tree.map(lambda leaf: leaf + 1, tree), jax.random.key(3)
    export.save(path, function, tree, other, key)
    program, loaded = export.load(path)
    wanted, noise, _ = function(tree, other, key)
    for params in (tree, loaded):
        doubled, again, nothing = program(params, other, key)
        assert isinstance(doubled, tuple if kind == "tuple" else dict)
        assert by_path(doubled) == by_path(wanted)
        assert bits(again) == bits(noise)
        assert nothing is None


@pytest.mark.parametrize("params", [3.0, 2, np.float64(1.5), np.arange(3), {"a": {}, "b": jnp.bfloat16(1)}, {}])
def test_parameters_of_any_kind(path: Path, params: Any) -> None:
    def function(p: Any, x: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: leaf * x, p)

    x = jnp.asarray([1, 2, 3], jnp.bfloat16)
    export.save(path, function, params, x)
    program, loaded = export.load(path)
    out, wanted = program(loaded, x), function(params, x)
    assert bits(out) == bits(wanted)
    assert jax.tree.map(jnp.result_type, out) == jax.tree.map(jnp.result_type, wanted)


def test_data_is_split_over_devices(path: Path, mesh: jax.sharding.Mesh) -> None:
    export.save(path, apply_fn, PARAMS, X, shapes="n, ...")
    program, loaded = export.load(path)
    many = jnp.concatenate([X, X + 1])
    spread = jax.device_put(many, jax.NamedSharding(mesh, jax.P("x")))
    assert distance(apply_fn(PARAMS, many), jax.jit(program)(loaded, spread)) <= 1e-6


def test_a_program_inside_another(path: Path) -> None:
    export.save(path, apply_fn, PARAMS, X, shapes="n, ...")
    program, loaded = export.load(path)
    export.save(path, lambda p, x: program(p, x) * 2, loaded, X, shapes="m, ...")
    doubled, again = export.load(path)
    assert distance(2 * apply_fn(PARAMS, X[:2]), doubled(again, X[:2])) <= 1e-6


def test_the_file_is_reproducible_and_does_not_tell_where_it_was_made(path: Path) -> None:
    contents = []
    for _ in range(2):
        jax.clear_caches()
        export.save(path, apply_fn, PARAMS, X, shapes="n, ...", vjp_order=1)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    program = pack.load(path)[0]["program"].tobytes()
    names = re.findall(rb"[\w./\\-]+\.py\b", program)
    assert b"test_stablehlo.py" in names
    assert not [name for name in names if b"/" in name or b"\\" in name]
    assert jax.config.jax_hlo_source_file_canonicalization_regex is None


def test_it_prints_as_its_signature(path: Path) -> None:
    export.save(path, apply_fn, PARAMS, X, shapes="n, ...", platforms=["tpu"])
    assert str(export.load(path)[0]) == "(params, float32[n,3]) -> float32[n,2], on tpu"


WRONG = {
    "shape": (lambda f, p: f(p, jnp.ones((4, 5))), r"float32\[n,3\].*Shape mismatch for args\[1\]"),
    "dtype": (lambda f, p: f(p, X.astype(jnp.bfloat16)), r"expected float32 and called with bfloat16"),
    "parameter": (lambda f, p: f({**p, "a": X}, X), r"are the parameters.*Shape mismatch for args\[0\]\['a'\]"),
    "missing": (lambda f, p: f({"a": p["a"]}, X), "1 child in the invocation.*with 3 children when exported"),
    "inputs": (lambda f, p: f(p), "same pytree structure"),
    "vmap": (lambda f, p: jax.vmap(f, (None, 0))(p, X[None]), "Batching rule"),
    "jit": (lambda f, p: jax.jit(f)(p, X[0]), r"Rank mismatch"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("order", [0, 1])
def test_wrong_arguments_are_told(path: Path, call: Any, message: str, order: int) -> None:
    export.save(path, apply_fn, PARAMS, X, shapes="n, ...", vjp_order=order)
    with pytest.raises(ArgumentError, match=message):
        call(*export.load(path))


def test_another_platform_is_told(path: Path) -> None:
    export.save(path, apply_fn, PARAMS, X, platforms=("tpu", "cuda"))
    program, loaded = export.load(path)
    with pytest.raises(ArgumentError, match=r"exported for platforms.*tpu.*cuda.*used on.*cpu"):
        program(loaded, X)


REFUSED = {
    "gpu": ({"platforms": ("gpu",)}, "a GPU is 'cuda' or 'rocm'"),
    "text": ({"platforms": "cpu"}, "must be a sequence"),
    "none": ({"platforms": ()}, "must be a sequence"),
    "order": ({"vjp_order": -1}, "vjp_order must be"),
    "coder": ({"coder": "zip"}, "coder"),
    "metadata": ({"metadata": {"a": {1}}}, "metadata needs"),
    "notes": ({"notes": {"d": Note()}}, "notes are given for params/d"),
    "spec": ({"shapes": "n, 5"}, r"cannot be exported for shapes 'n, 5'"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_saved_is_refused(path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        export.save(path, apply_fn, PARAMS, X, **settings)
    assert not path.exists()


def test_parameters_without_values_are_refused(path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"params/a: .*ShapeDtypeStruct"):
        export.save(path, apply_fn, jax.eval_shape(lambda: PARAMS), X)
    assert not path.exists()


def test_a_function_that_needs_numbers_says_so(path: Path) -> None:
    def halves(p: Any, x: jax.Array) -> jax.Array:
        return x.reshape(2, -1, 3)[0] @ p["a"]

    with pytest.raises(ArgumentError, match=r"Leave `shapes` out to export it for the shapes of the example") as caught:
        export.save(path, halves, PARAMS, X, shapes="n, ...")
    assert caught.value.__cause__ is not None
    export.save(path, halves, PARAMS, X)
    program, loaded = export.load(path)
    assert bits(program(loaded, X)) == bits(halves(PARAMS, X))
    with pytest.raises(ArgumentError, match="Leave `shapes`") as caught:
        export.save(path, lambda p, x: np.asarray(x), PARAMS, X, shapes="n, ...")


def test_damage_is_told(path: Path) -> None:
    export.save(path, apply_fn, PARAMS, X)
    data = path.read_bytes()
    for at in RNG.integers(0, len(data), 50).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ArtifactError, match=path.name):
            export.load(path)
        path.write_bytes(data[:at])
        with pytest.raises(ArtifactError, match=path.name):
            export.load(path)


def test_what_was_altered_and_written_anew_is_told_before_it_runs(path: Path) -> None:
    export.save(path, apply_fn, PARAMS, X, metadata={"seed": 1})
    whole, metadata = pack.load(path)
    for at in range(0, whole["program"].size, whole["program"].size // 20):
        program = whole["program"].copy()
        program[at : at + 16] ^= 255
        pack.save(path, {**whole, "program": program}, metadata=metadata)
        with pytest.raises(ArtifactError, match="SHA-256"):
            export.load(path)
    changes = [
        ({**whole["params"], "a": whole["params"]["a"] + 1}, {}),
        ({**whole["params"], "d": whole["params"]["a"]}, {}),
        (whole["params"], {"platforms": ["cpu"]}),
    ]
    for params, about in changes:
        pack.save(path, {**whole, "params": params}, metadata={**metadata, "export": {**metadata["export"], **about}})
        with pytest.raises(ArtifactError, match="SHA-256"):
            export.load(path)
    pack.save(path, whole, metadata=metadata)
    program, loaded = export.load(path)
    assert bits(program(loaded, X)) == bits(jax.jit(apply_fn)(PARAMS, X))


def test_a_file_of_before_the_digest_loads(path: Path) -> None:
    export.save(path, apply_fn, PARAMS, X)
    tree, metadata = pack.load(path)
    del metadata["export"]["sha256"]
    pack.save(path, tree, metadata=metadata)
    program, loaded = export.load(path, max_bytes=10**6)
    assert bits(program(loaded, X)) == bits(jax.jit(apply_fn)(PARAMS, X))
    with pytest.raises(ArtifactError, match="max_bytes"):
        export.load(path, max_bytes=10**2)


def test_other_files_are_told(path: Path) -> None:
    pack.save(path, PARAMS)
    with pytest.raises(ArtifactError, match=r"holds no program.*jaxcomp.pack.load"):
        export.load(path)
    pack.save(path, {"params": {}, "program": np.arange(200, dtype=np.uint8)}, metadata={"export": {}, "user": {}})
    with pytest.raises(ArtifactError, match=rf"JAX {jax.__version__} reads"):
        export.load(path)


def test_without_flatbuffers_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export.save(path, apply_fn, PARAMS, X)
    monkeypatch.setattr("jaxcomp.export.stablehlo.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"jaxcomp\[export\]"):
        export.save(path, apply_fn, PARAMS, X)
    with pytest.raises(MissingExtraError, match=r"jaxcomp\[export\]"):
        export.load(path)
