"""Whatever takes a function, parameters and data says what it needs; labels may stand beside the inputs."""

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, CallError
from jaxcomp.observe.batches import checked_batches
from jaxcomp.rewrite import Scheme

RNG = np.random.default_rng(5)
X = jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)
LABELS = jnp.arange(6)
PARAMS = {
    "a": jnp.asarray(RNG.standard_normal((4, 5)), jnp.float32),
    "b": jnp.asarray(RNG.standard_normal((5, 3)), jnp.float32),
}
GROUPS = jc.trace.groups(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], PARAMS, X)
W8 = Scheme(8, inputs=None)


def net(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["a"]) @ p["b"]


def score(function: Any, p: Any) -> float:
    return 0.0


ON_DATA: dict[str, Callable[..., Any]] = {
    "calibrate": lambda f, p, data, **how: jc.rewrite.calibrate(f, p, data, **how),
    "ptq": lambda f, p, data, **how: jc.posttrain.ptq(f, p, data, **how).params,
    "round_weights": lambda f, p, data, **how: jc.posttrain.round_weights(f, p, data, W8, **how).params,
    "sparsify": lambda f, p, data, **how: jc.posttrain.sparsify(f, p, data, 0.5, method="wanda", **how).params,
    "refit": lambda f, p, data, **how: jc.posttrain.refit(f, p, data, GROUPS, {"a": np.arange(5) < 3}, **how),
    "correct_biases": lambda f, p, data, **how: jc.posttrain.correct_biases(f, p, data, p, **how).params,
    "smooth": lambda f, p, data, **how: jc.posttrain.smooth(f, p, data, **how).params,
    "input_norms": lambda f, p, data, **how: jc.observe.input_norms(f, p, data, **how),
    "qat": lambda f, p, data, **how: jc.rewrite.qat(f, p, data, **how)[1],
    "factorize": lambda f, p, data, **how: jc.rewrite.factorize(f, p, X, rank=2, cheaper=False, batches=data, **how)[1],
    "output_gradients": lambda f, p, data, **how: next(jc.observe.output_gradients(f, p, data, **how)),
    "sensitivity": lambda f, p, data, **how: [
        row.harm for row in jc.search.sensitivity(f, p, data, {"8": W8}, **how).rows
    ],
    "fall_back": lambda f, p, data, **how: list(
        jc.search.fall_back(f, p, data, score, drop=0.1, scheme=W8, **how).reverted
    ),
}
EXAMPLES: dict[str, Callable[..., Any]] = {
    "sites": jc.trace.sites,
    "groups": jc.trace.groups,
    "quantize": lambda f, p, *x: jc.rewrite.quantize(f, p, *x, scheme=W8),
    "fake_quantize": lambda f, p, *x: jc.rewrite.fake_quantize(f, p, *x, scheme=W8),
    "shrink": lambda f, p, *x: jc.rewrite.shrink(f, p, *x, keep=jc.rewrite.choose(0.5)),
    "remove_dead": jc.rewrite.remove_dead,
    "fold_batch_norm": jc.rewrite.fold_batch_norm,
    "fold_weights": jc.rewrite.fold_weights,
    "factorize": lambda f, p, *x: jc.rewrite.factorize(f, p, *x, rank=2),
    "equalize": jc.posttrain.equalize,
    "ends": jc.trace.ends,
}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(x)


NNX = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
NO_FUNCTION = {
    "a Linen module": (Linen(), r"got Linen: a Linen module is not one, .* give module.apply"),
    "an nnx.Module": (NNX, r"got Linear: an nnx.Module holds its parameters: .* nnx.merge"),
    "a class": (Linen, r"got the class Linen, not a class"),
    "None": (None, r"got NoneType"),
}


@pytest.mark.parametrize(
    "name", [*(name for name in ON_DATA if name not in EXAMPLES), *(f"{name}(example)" for name in EXAMPLES)]
)
def test_what_is_no_function_and_what_it_cannot_be_called_with_are_named(name: str) -> None:
    def call(function: Any, params: Any, given: Any) -> Any:
        own = name.removesuffix("(example)")
        return EXAMPLES[own](function, params, given) if own != name else ON_DATA[own](function, params, [given])

    for function, message in NO_FUNCTION.values():
        with pytest.raises(CallError, match=rf"apply_fn must be a function, called as .*{message}"):
            call(function, PARAMS, X)
    with pytest.raises(CallError, match=r"params = float32\[6,4\]; inputs = dict {a: float32\[4,5\].*swapped\?"):
        call(net, X, PARAMS)
    with pytest.raises(CallError, match=r"inputs = list {0: float32\[6,4\], 1: float32\[6,4\]}. A list is one input"):
        call(lambda p, x, y: net(p, x + y), PARAMS, [X, X])
    with pytest.raises(CallError, match=r"failed with TypeError: .*\n.*inputs = float32\[6,7\]"):
        call(net, PARAMS, jnp.ones((6, 7)))


@pytest.mark.parametrize("name", ON_DATA)
def test_what_is_no_list_of_batches_is_named(name: str) -> None:
    run, argument = ON_DATA[name], "data" if name == "factorize" else "batches"
    for given, message in [
        (X, r"got one float32\[6,4\], which would be taken apart: give \["),
        (np.asarray(X), r"got one float32\[6,4\]"),
        ({"image": X}, r"got dict {image: float32\[6,4\]}: give \["),
        (7, "got int"),
        ("train", "got 'train'"),
    ]:
        with pytest.raises(ArgumentError, match=rf"{argument}= must be a list of batches .*{message}"):
            run(net, PARAMS, given)
    with pytest.raises(ArgumentError, match=r"batch 0 of .*= holds no example"):
        run(net, PARAMS, [X[:0]])
    with pytest.raises(ArgumentError, match="holds what is no array of numbers: 'a'"):
        run(net, PARAMS, ["a", "b"])
    if name != "output_gradients":
        with pytest.raises(ArgumentError, match="gave no batch"):
            run(net, PARAMS, iter(()))


def forever(batch: Any) -> Any:
    while True:
        yield batch


ON_GRADIENTS: dict[str, Callable[..., Any]] = {
    "fisher": lambda f, p, data: jc.observe.fisher_diagonal(data),
    "importance": lambda f, p, data: jc.rewrite.importance(GROUPS, p, "taylor", grads=data),
}
LAZY: dict[str, Callable[..., Any]] = {
    "output_gradients": lambda f, p, data: list(jc.observe.output_gradients(f, p, data)),
    "recalibrate": lambda f, p, data: jc.posttrain.recalibrate(
        lambda s, x: 0.9 * s + 0.1 * x.mean(0), jnp.ones(4), data
    ),
    "importance(batches)": lambda f, p, data: jc.rewrite.importance(GROUPS, p, "activation", batches=data),
    **ON_GRADIENTS,
}


@pytest.mark.parametrize("name", [*ON_DATA, *(name for name in LAZY if name not in ON_DATA)])
def test_data_without_end_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxcomp.observe.batches.MOST_BATCHES", 5)
    run = {**ON_DATA, **LAZY}[name]
    one = PARAMS if name in ON_GRADIENTS else X
    argument = {"factorize": "data", **dict.fromkeys(ON_GRADIENTS, "grads")}.get(name, "batches")
    for given, message in [
        (forever(one), "5 came, and no end"),
        (itertools.cycle([one]), "itertools.cycle never ends"),
        (itertools.repeat(one), "itertools.repeat never ends"),
    ]:
        with pytest.raises(
            ArgumentError, match=rf"{argument}= must come to an end.*{message}.*islice\({argument}, n\)"
        ):
            run(net, PARAMS, given)


def test_what_comes_to_an_end_is_read_whatever_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxcomp.observe.batches.MOST_BATCHES", 5)
    for given in ([X] * 7, itertools.repeat(X, 5), itertools.islice(forever(X), 5), (X for _ in range(5))):
        assert len(checked_batches(net, PARAMS, given)) in (5, 7)
    monkeypatch.setattr("jaxcomp.observe.batches.MOST_BYTES", 3 * X.nbytes)
    assert len(checked_batches(net, PARAMS, [X] * 5)) == 5
    with pytest.raises(ArgumentError, match="4 of 384 bytes came, and no end"):
        checked_batches(net, PARAMS, forever(X))


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.exhaustive if name == "ptq" else []) for name in ON_DATA
])  # fmt: skip
def test_labels_beside_the_inputs_are_left_out(name: str) -> None:
    run = ON_DATA[name]
    expected = run(net, PARAMS, [X])
    ways: list[tuple[Any, Any]] = [
        ([(X, LABELS)], None),
        ([[X, LABELS]], None),  # as PyTorch collates
        (iter([{"image": np.asarray(X), "label": np.asarray(LABELS)}]), None),
        ([{"index": LABELS, "image": X}], "image"),
        ([[LABELS, X]], 1),
        (((X, LABELS) for _ in range(1)), lambda batch: batch[0]),
    ]
    for data, select in ways if name in ("calibrate", "output_gradients") else ways[:1]:
        jax.tree.map(np.testing.assert_array_equal, run(net, PARAMS, data, select=select), expected)


def test_a_tuple_is_all_inputs_of_a_function_that_takes_as_many() -> None:
    def two(p: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return x @ p["a"] + y.astype(jnp.float32)[:, None]

    def optional(p: Any, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        return x @ p["a"]

    def of_dict(p: Any, batch: Any) -> jax.Array:
        return batch["image"] @ p["a"]

    for function in (two, optional):
        assert [len(inputs) for inputs in checked_batches(function, PARAMS, [(X, LABELS)] * 2)] == [2, 2]
    assert [len(inputs) for inputs in checked_batches(net, PARAMS, [(X, LABELS)] * 2)] == [1, 1]
    (inputs,) = checked_batches(of_dict, PARAMS, [{"image": X, "label": LABELS}])
    assert list(inputs[0]) == ["image", "label"]
    with pytest.raises(ArgumentError, match=r"got float32\[6,4\] and then int32\[6\]"):
        checked_batches(net, PARAMS, (X, LABELS))
    with pytest.raises(ArgumentError, match=r"one structure, shapes and dtypes.*float16\[6,4\]"):
        checked_batches(net, PARAMS, [X, X.astype(jnp.float16)])
    for select in ("image", 0, lambda batch: batch["image"]):
        with pytest.raises(ArgumentError, match="chooses nothing of a batch, float32"):
            checked_batches(net, PARAMS, [X], select)


class Tensor:
    """What another library's loader gives: shape, dtype, and a way to NumPy."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


def test_tensors_of_other_libraries_are_arrays() -> None:
    (inputs,) = checked_batches(net, PARAMS, [(Tensor(np.asarray(X)), Tensor(np.asarray(LABELS)))])
    np.testing.assert_array_equal(inputs[0], X)
    with pytest.raises(ArgumentError, match=r"got one torch.float32\[6,4\]"):
        checked_batches(net, PARAMS, Tensor(np.asarray(X)))


def test_random_keys_are_inputs_and_later_batches_are_checked_too() -> None:
    def noisy(p: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        return net(p, x + jax.random.normal(key, x.shape))

    data = [(X, jax.random.key(0)), (X, jax.random.key(1))]
    assert [len(inputs) for inputs in checked_batches(noisy, PARAMS, data)] == [2, 2]
    with pytest.raises(CallError, match=r"inputs = float32\[6,2\]"):
        list(jc.observe.output_gradients(net, PARAMS, [X, X[:3], X[:, :2]]))


def test_importance_of_activations_takes_batches_likewise() -> None:
    expected = jc.rewrite.importance(GROUPS, PARAMS, "activation", batches=[(X,)])
    for data, select in [([X], None), ([(X, LABELS)], None), ([{"y": LABELS, "x": X}], "x")]:
        found = jc.rewrite.importance(GROUPS, PARAMS, "activation", batches=data, select=select)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(ArgumentError, match="must be a list of batches"):
        jc.rewrite.importance(GROUPS, PARAMS, "activation", batches=X)


def test_recalibrate_takes_whole_batches_or_their_inputs() -> None:
    def move(stats: Any, x: jax.Array) -> Any:
        return {"mean": 0.9 * stats["mean"] + 0.1 * x.mean(0)}

    def move_pair(stats: Any, batch: Any) -> Any:
        return move(stats, batch[0])

    stats = {"mean": jnp.zeros(4)}
    expected = jc.posttrain.recalibrate(move, stats, [X, 2 * X])
    for update, data in [(move, [(X, LABELS), (2 * X, LABELS)]), (move_pair, [(X, LABELS), (2 * X, LABELS)])]:
        jax.tree.map(np.testing.assert_array_equal, jc.posttrain.recalibrate(update, stats, data), expected)
    with pytest.raises(ArgumentError, match="must be a list of batches"):
        jc.posttrain.recalibrate(move, stats, X)
    with pytest.raises(CallError, match=r"update\(stats, batch\) failed"):
        jc.posttrain.recalibrate(lambda stats, x: x["no"], stats, [X])
    with pytest.raises(CallError, match="update must be a function"):
        jc.posttrain.recalibrate(Linen(), stats, [X])


def test_gradients_are_a_list_of_trees() -> None:
    with pytest.raises(ArgumentError, match="grads= must be a list of trees of gradients"):
        jc.observe.fisher_diagonal({"w": X})
    with pytest.raises(CallError, match="loss must be a function"):
        jc.observe.hessian_diagonal(Linen(), PARAMS, jax.random.key(0))
    with pytest.raises(CallError, match=r"loss\(params\) failed with TypeError: .*scalar-output"):
        jc.observe.hessian_diagonal(lambda p: p["a"], PARAMS, jax.random.key(0))


def scaled(p: Any, x: jax.Array, scale: Any = 1.0) -> jax.Array:
    return net(p, x) * scale


REWRITES = {
    "quantize": lambda f: jc.rewrite.quantize(f, PARAMS, X, scheme=W8),
    "fake_quantize": lambda f: jc.rewrite.fake_quantize(f, PARAMS, X, scheme=W8),
    "factorize": lambda f: jc.rewrite.factorize(f, PARAMS, X, rank=2, cheaper=False),
    "shrink": lambda f: jc.rewrite.shrink(f, PARAMS, X, keep={"a": np.arange(5) < 3}),
    "fold": lambda f: jc.rewrite.fold_batch_norm(f, PARAMS, X),
    "qat": lambda f: jc.rewrite.qat(f, PARAMS, [X], W8),
    "twice": lambda f: jc.rewrite.quantize(
        *jc.rewrite.shrink(f, PARAMS, X, keep={"a": np.arange(5) < 3}), X, scheme=W8
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewritten_function_takes_inputs_by_the_names_of_the_original(name: str) -> None:
    new, params = REWRITES[name](scaled)
    expected = new(params, X, 2.0)
    for given in (new(params, x=X, scale=2.0), new(params, scale=2.0, x=X), new(p=params, x=X, scale=2.0)):
        np.testing.assert_array_equal(given, expected)
    np.testing.assert_array_equal(new(params=params, x=X), new(params, X))
    with pytest.raises(ArgumentError, match=r"in their order \(p, x, scale\), and got train=: give inputs by place"):
        new(params, X, train=False)
    with pytest.raises(ArgumentError, match="its argument 'x' twice"):
        new(params, X, x=X)
    with pytest.raises(ArgumentError, match="argument 'x' is missing"):
        new(params, scale=2.0)
    with pytest.raises(ArgumentError, match="called with nothing"):
        new()
