"""The same leaves under the same paths, in whatever container they come, give the same numbers or a named error."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

import jaxcomp as jc
from jaxcomp.core.errors import PathError
from jaxcomp.core.paths import named_leaves
from jaxcomp.rewrite import Scheme
from jaxcomp.search.switched import Switched


class Named(NamedTuple):
    """Leaves that are not in the alphabet's order, of which two could stand for each other."""

    inner: Any
    bias: Any
    decoder: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Data:
    inner: Any
    decoder: Any
    bias: Any


CONTAINERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dict": dict,
    "named tuple": lambda leaves: Named(**leaves),
    "dataclass": lambda leaves: Data(**leaves),
    "frozen dict": FrozenDict,
    "nnx state": lambda leaves: nnx.State({key: nnx.Param(leaf) for key, leaf in leaves.items()}),
}
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((16, 6)), jnp.float32)
LEAVES = {
    "bias": jnp.asarray(RNG.standard_normal(6), jnp.float32),
    "inner": jnp.asarray(RNG.standard_normal((6, 6)), jnp.float32),
    "decoder": jnp.asarray(RNG.standard_normal((6, 6)), jnp.float32),
}
FLIPPED = {key: leaf[::-1] for key, leaf in LEAVES.items()}
W4 = Scheme(4, inputs=None)


def get(params: Any, key: str) -> Any:
    leaf = getattr(params, key) if isinstance(params, Named | Data) else params[key]
    return leaf[...] if isinstance(leaf, nnx.Variable) else leaf


def net(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ get(p, "inner") + get(p, "bias")) @ get(p, "decoder")


def switched(params: Any) -> Any:
    function = Switched(net, params, X)
    return lambda p, x: function(p, function.off(), x)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "fake_quantize": lambda p: jc.rewrite.fake_quantize(net, p, X, ranges=jc.rewrite.calibrate(net, p, [X])),
    "quantize": lambda p: jc.rewrite.quantize(net, p, X, scheme=[("decoder", None), (".*", W4)]),
    "shrink": lambda p: jc.rewrite.shrink(net, p, X, keep={"inner": np.arange(6) < 4}),
    "factorize": lambda p: jc.rewrite.factorize(net, p, X, rank=3, cheaper=False),
    "fold": lambda p: jc.rewrite.fold_batch_norm(net, p, X),
    "qat": lambda p: jc.rewrite.qat(net, p, [X]),
    "switched": switched,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_new_function_takes_its_parameters_in_any_container(name: str) -> None:
    made = FUNCTIONS[name](Named(**LEAVES))
    new, params = made if isinstance(made, tuple) else (made, Named(**LEAVES))
    expected = new(params, X)
    within = params["params"] if name == "qat" else params
    leaves = {key: getattr(within, key) for key in LEAVES}
    for container, make in CONTAINERS.items():
        own = make(leaves)
        given = {**params, "params": own} if name == "qat" else own
        np.testing.assert_array_equal(new(given, X), expected, err_msg=container)


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in named_leaves(tree).items()}


def masked_step(masks: Any) -> Any:
    tx = jc.prune.masked_optimizer(optax.adam(0.1))
    return tx.update(LEAVES, tx.init(LEAVES), LEAVES, masks=masks)[0]


GROUPS = jc.trace.groups(net, LEAVES, X)
OTHERS: dict[str, Callable[[Any], Any]] = {
    "changed": lambda tree: jc.posttrain.correct_biases(net, LEAVES, [X], tree).params,
    "importance": lambda tree: jc.rewrite.importance(GROUPS, tree, "taylor", grads=tree),
    "activations": lambda tree: jc.rewrite.importance(GROUPS, tree, "activation", batches=[X]),
    "curvature": lambda tree: {
        row.path: row.harm for row in jc.search.sensitivity(net, LEAVES, [X], {"4": W4}, curvature=tree).rows
    },
    "fisher": lambda tree: jc.observe.fisher_diagonal([LEAVES, tree]),
    "fisher of sparsify": lambda tree: (
        jc.posttrain.sparsify(net, LEAVES, [X], 0.5, method="woodfisher", fisher=tree).params
    ),
    "refit": lambda tree: jc.posttrain.refit(net, tree, [X], GROUPS, {"inner": np.arange(6) < 4}),
    "mask": lambda tree: jc.rewrite.mask(GROUPS, tree, {"inner": np.arange(6) < 4}),
    "grads": lambda tree: (lambda c: c.update(LEAVES, c.init(LEAVES), 1, grads=tree))(jc.prune.prune(0.5, "taylor")),
    "masked optimizer": lambda tree: masked_step(jax.tree.map(lambda leaf: leaf > 0, tree)),
    "decay": lambda tree: jc.prune.decay_pruned(LEAVES, jax.tree.map(lambda leaf: leaf > 0, tree), 0.5),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tree_beside_the_parameters_is_matched_by_path(name: str) -> None:
    run = OTHERS[name]
    expected = flat(run(FLIPPED))
    for container, make in CONTAINERS.items():
        found = flat(run(make(FLIPPED)))
        assert found.keys() == expected.keys()
        for path, leaf in expected.items():
            np.testing.assert_array_equal(found[path], leaf, err_msg=f"{container}: {path}")


def test_leaves_of_other_paths_are_named() -> None:
    new, _ = jc.rewrite.fake_quantize(net, LEAVES, X, scheme=W4)
    with pytest.raises(PathError, match="the parameters have no leaf 'bias': give the same leaves"):
        new({"inner": LEAVES["inner"], "decoder": LEAVES["decoder"]}, X)
    with pytest.raises(PathError, match="the changed parameters have a leaf 'more' too many"):
        jc.posttrain.correct_biases(net, LEAVES, [X], LEAVES | {"more": X})
    with pytest.raises(PathError, match="'inner' is missing, which the groups were found with"):
        jc.rewrite.importance(GROUPS, {"bias": LEAVES["bias"], "decoder": LEAVES["decoder"]})
    with pytest.raises(PathError, match="the parameters have no leaf 'inner', which is masked"):
        jc.rewrite.mask(GROUPS, {"bias": LEAVES["bias"], "decoder": LEAVES["decoder"]}, {"inner": np.arange(6) < 4})
    with pytest.raises(PathError, match="the gradients of a later batch have no leaf 'inner'"):
        jc.observe.fisher_diagonal([LEAVES, {"bias": LEAVES["bias"], "decoder": LEAVES["decoder"]}])


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "dict"])
def test_a_view_names_the_container_that_its_state_was_made_for(name: str) -> None:
    for view in (jc.prune.magnitude(0.5), jc.quant.fake(4), jc.lowrank.project(2)):
        with pytest.raises(PathError, match=r"not laid out as those that the state \(dict\) was made for"):
            view.apply(CONTAINERS[name](LEAVES), view.init(LEAVES))
    prune = jc.prune.magnitude(0.5)
    with pytest.raises(PathError, match=r"not laid out as those that the state \(dict\) was made for"):
        jc.prune.kept(prune, CONTAINERS[name](LEAVES), prune.init(LEAVES))
