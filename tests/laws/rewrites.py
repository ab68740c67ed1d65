"""The table of rewrites under law: name -> what it computes of a function, its parameters and inputs; and networks.

Each meets two of the networks in each law, in turn: every pair of a rewrite and a law, a network and a law, is there.

The networks promote neither ranks nor types, and are of functions with derivatives of their own.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcomp as jc


class Network(NamedTuple):
    function: Callable[..., Any]
    params: Any
    inputs: jax.Array


@jax.custom_jvp
def swish(x: Any) -> Any:
    return x * jax.nn.sigmoid(x)


@swish.defjvp
def _(xs: Any, tangents: Any) -> Any:
    return swish(*xs), tangents[0] * jax.nn.sigmoid(xs[0])


@jax.custom_vjp
def squashed(x: Any) -> Any:
    return jnp.tanh(x)


squashed.defvjp(lambda x: (squashed(x), x), lambda x, slope: (slope * (1 - jnp.tanh(x) ** 2),))


def dense(params: Any, x: Any) -> Any:
    h = jax.nn.relu(x @ params["up"] + params["bias"][None])
    h = swish(h) + squashed(h)
    return jax.nn.softplus(h @ params["down"]) @ params["head"]


def convolutional(params: Any, x: Any) -> Any:
    along = {name: leaf.reshape(1, 1, 1, -1) for name, leaf in params.items() if leaf.ndim == 1}
    numbers = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
    h = (h - along["mean"]) * jax.lax.rsqrt(along["var"] + 1e-5) * along["scale"] + along["bias"]
    h = jax.lax.conv_general_dilated(
        jax.nn.relu6(h), params["depth"], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=8
    )
    return jax.nn.relu(h).mean((1, 2)) @ params["head"]


def attentive(params: Any, x: Any) -> Any:
    h = x @ params["embed"]
    query, key, value = ((h @ params[name]).reshape(*h.shape[:2], 2, 4) for name in ("query", "key", "value"))
    shares = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / 2)
    h = h + jnp.einsum("bhqk,bkhd->bqhd", shares, value).reshape(h.shape) @ params["out"]
    return (h + jax.nn.gelu(h @ params["up"]) @ params["down"]).mean(1) @ params["head"]


def scanned(params: Any, x: Any) -> Any:
    def layer(h: Any, own: Any) -> Any:
        return jax.nn.relu(h @ own["kernel"] + own["bias"][None]), None

    h = jax.lax.scan(layer, x @ params["embed"], params["layers"])[0]
    return jax.checkpoint(lambda h: jnp.tanh(h @ params["out"]))(h) @ params["head"]


def numbers(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape, jnp.float32)


def _filled(shapes: Any) -> Any:
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.normal(key, shape, jnp.float32) / 3 for key, shape in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def networks() -> dict[str, Network]:
    conv = _filled({"kernel": (3, 3, 4, 8), **dict.fromkeys(("mean", "var", "scale", "bias"), (8,)),
                    "depth": (3, 3, 1, 8), "head": (8, 4)})  # fmt: skip
    conv |= {"var": jnp.abs(conv["var"]) + 1}
    attention = dict.fromkeys(("query", "key", "value", "out"), (8, 8))
    return {
        "dense": Network(
            dense, _filled({"up": (8, 8), "bias": (8,), "down": (8, 16), "head": (16, 4)}), numbers(8, 8)
        ),
        "convolutional": Network(convolutional, conv, numbers(8, 4, 4, 4)),
        "attentive": Network(
            attentive, _filled({"embed": (4, 8), **attention, "up": (8, 16), "down": (16, 8), "head": (8, 4)}),
            numbers(8, 4, 4),
        ),
        "scanned": Network(
            scanned,
            _filled({"embed": (8, 8), "layers": {"kernel": (2, 8, 8), "bias": (2, 8)}, "out": (8, 8), "head": (8, 4)}),
            numbers(8, 8),
        ),
    }  # fmt: skip


def ran(made: Any, x: Any) -> Any:
    return jax.jit(made[0])(made[1], x)


def slopes(made: Any, x: Any) -> Any:
    """Gradients of the parameters; whole numbers have none."""
    return jax.jit(jax.grad(lambda params: (made[0](params, x) ** 2).sum(), allow_int=True))(made[1])


def trained(make: Callable[..., Any]) -> Callable[..., Any]:
    def both(f: Any, p: Any, x: Any) -> Any:
        made = make(f, p, x)
        return ran(made, x), slopes(made, x)

    return both


def weights_of(bits: int, inputs: str | None) -> Callable[..., Any]:
    scheme = jc.rewrite.Scheme(bits, inputs=inputs)
    return lambda f, p, x: ran(jc.rewrite.quantize(f, p, x, scheme=scheme), x)


def static(f: Any, p: Any, x: Any) -> Any:
    return ran(jc.rewrite.quantize(f, p, x, ranges=jc.rewrite.calibrate(f, p, [x])), x)


def fake(f: Any, p: Any, x: Any) -> Any:
    return jc.rewrite.fake_quantize(f, p, x, ranges=jc.rewrite.calibrate(f, p, [x]))


def halved(f: Any, p: Any, x: Any) -> Any:
    return jc.rewrite.shrink(f, p, x, keep=jc.rewrite.choose(0.5))


def coarse(p: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.round(leaf * 4) / 4, p)


def only_weights(bits: int) -> Any:
    return jc.rewrite.Scheme(bits, inputs=None)


def scores(f: Any, p: Any, x: Any) -> Any:
    groups = jc.trace.groups(f, p, x)
    given = {"grads": slopes((f, p), x), "batches": [(x,)]}
    return [dict(jc.rewrite.importance(groups, p, score, **given)) for score in ("l2", "taylor", "apoz")]


def refitted(f: Any, p: Any, x: Any) -> Any:
    groups = jc.trace.groups(f, p, x)
    return jc.posttrain.refit(f, p, [x], groups, jc.rewrite.choose(0.5)(groups, p))


def pruned_channels(f: Any, p: Any, x: Any) -> Any:
    view = jc.prune.channels(jc.trace.groups(f, p, x), 0.5)
    return jax.jit(lambda p: view.apply(p, view.init(p)))(p)


def sensitive(f: Any, p: Any, x: Any) -> Any:
    return [row.harm for row in jc.search.sensitivity(f, p, [x], {"8": only_weights(8)}).rows]


def moved_statistics(f: Any, p: Any, x: Any) -> Any:
    def update(stats: Any, x: Any) -> Any:
        return {"mean": 0.9 * stats["mean"] + 0.1 * f(p, x).mean(0)}

    return jc.posttrain.recalibrate(update, {"mean": jnp.zeros(4, x.dtype)}, [x, x])


REWRITES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "sites": lambda f, p, x: len(jc.trace.sites(f, p, x)),
    "groups": lambda f, p, x: [group.size for group in jc.trace.groups(f, p, x)],
    "shrink": trained(halved),
    "remove_dead": lambda f, p, x: ran(jc.rewrite.remove_dead(f, p, x), x),
    "factorize": trained(lambda f, p, x: jc.rewrite.factorize(f, p, x, rank=0.5)[:2]),
    "fold_batch_norm": lambda f, p, x: ran(jc.rewrite.fold_batch_norm(f, p, x), x),
    "fold_weights": lambda f, p, x: ran(jc.rewrite.fold_weights(f, p, x), x),
    "quantize-w8": weights_of(8, None),
    "quantize-w4": weights_of(4, None),
    "quantize-w8-dynamic": weights_of(8, "dynamic"),
    "quantize-w4-dynamic": weights_of(4, "dynamic"),
    "quantize-w8-static": static,
    "fake_quantize": trained(fake),
    **{f"qat-{weights}": trained(lambda f, p, x, w=weights: jc.rewrite.qat(f, p, [x], weight_grids=w))
       for weights in ("lsq", "pact", "fit")},
    "ptq-8": lambda f, p, x: ran(jc.posttrain.ptq(f, p, [x]), x),
    "ptq-4": lambda f, p, x: ran(jc.posttrain.ptq(f, p, [x], jc.rewrite.Scheme(bits=4)), x),
    "ptq-nearest": lambda f, p, x: ran(jc.posttrain.ptq(f, p, [x], method="nearest"), x),
    **{f"sparsify-{method}": lambda f, p, x, m=method: jc.posttrain.sparsify(f, p, [x], 0.5, method=m)[0]
       for method in ("sparsegpt", "wanda")},
    "sparsify-global": lambda f, p, x: jc.posttrain.sparsify(f, p, [x], 0.5, method="wanda", distribution="global")[0],
    "round_weights": lambda f, p, x: jc.posttrain.round_weights(f, p, [x], only_weights(4)).params,
    "round_weights-adaround": lambda f, p, x: jc.posttrain.round_weights(
        f, p, [x], only_weights(4), method="adaround", steps=3
    ).params,
    "round_weights-rate": lambda f, p, x: jc.posttrain.round_weights(
        f, p, [x], jc.rewrite.Scheme(8, inputs=None), rate=1e-4
    ).params,
    "share": lambda f, p, x: jc.posttrain.share(f, p, [x], 4).params,
    "correct_biases": lambda f, p, x: jc.posttrain.correct_biases(f, p, [x], coarse(p)).params,
    "correct_biases-fast": lambda f, p, x: jc.posttrain.correct_biases(f, p, [x], coarse(p), method="fast").params,
    "equalize": lambda f, p, x: ran((f, jc.posttrain.equalize(f, p, x, scheme=None)[0]), x),
    "smooth": lambda f, p, x: ran((f, jc.posttrain.smooth(f, p, [x], scheme=None)[0]), x),
    "refit": refitted,
    "recalibrate": moved_statistics,
    "input_norms": lambda f, p, x: jc.observe.input_norms(f, p, [x]),
    "calibrate-entropy": lambda f, p, x: jc.rewrite.calibrate(f, p, [x], fit=jc.quant.entropy()),
    "calibrate-momentum": lambda f, p, x: jc.rewrite.calibrate(f, p, [x], momentum=0.9),
    "importance": scores,
    "fisher": lambda f, p, x: jc.observe.fisher_diagonal([slopes((f, p), x)] * 2),
    "sensitivity": sensitive,
    "channels": pruned_channels,
}  # fmt: skip


@functools.cache
def plain(name: str, network: str) -> Any:
    """What a rewrite computes where nothing is special; once for all laws that compare with it."""
    return REWRITES[name](*networks()[network])


def in_turn(names: Sequence[str], places: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Every name at every other place, with a number that goes round over names and over places."""
    for i, name in enumerate(names):
        for j, place in enumerate(places):
            if len(places) == 1 or i % 2 == j % 2:
                yield name, place, i + i // 4 + j // 2
