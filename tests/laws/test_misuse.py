"""A call that was meant otherwise is an error: it names the argument, what came, and the call that was meant."""

import pickle
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import jaxcomp as jc
from jaxcomp.core.errors import JaxcompError
from jaxcomp.rewrite import choose, quantize, shrink

PARAMS = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
X = jnp.ones((2, 3))
HALF = jc.prune.magnitude(0.5)


def net(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["a"]) @ p["b"]


def shown(params: Any) -> Any:
    return HALF.apply(params, HALF.init(PARAMS))


GROUPS = jc.trace.groups(net, PARAMS, X)
SGD = optax.sgd(0.1)

CALLS: dict[str, tuple[Callable[[], Any], tuple[str, str, str]]] = {
    "a fraction to keep": (lambda: shrink(net, PARAMS, X, keep=0.5), ("keep", "0.5", "choose(0.5)")),
    "names to keep": (lambda: jc.rewrite.mask(GROUPS, PARAMS, ["a"]), ("keep", "['a']", "choose(0.5)")),
    "keep of refit": (
        lambda: jc.posttrain.refit(net, PARAMS, [X], GROUPS, 0.5),
        ("keep", "0.5", "choose(0.5)"),
    ),
    "a function for groups": (lambda: jc.rewrite.importance(net, PARAMS), ("groups", "function", "jc.trace.groups(")),
    "channels of a function": (lambda: jc.prune.channels(net, 0.5), ("groups", "function", "jc.trace.groups(")),
    "activations of a function": (
        lambda: jc.observe.activations(net, PARAMS, [X]),
        ("groups", "function", "jc.trace.groups("),
    ),
    "a penalty of a function": (lambda: jc.prune.group_lasso(net, PARAMS), ("groups", "function", "jc.trace.groups(")),
    "limits of a function": (lambda: jc.prune.least_kept(net), ("groups", "function", "jc.trace.groups(")),
    "an optimizer's maker": (
        lambda: jc.optim.compress(optax.sgd, HALF),
        ("optimizer", "sgd", "optax.adam(1e-3)", "call it"),
    ),
    "a maker to mask": (lambda: jc.prune.masked_optimizer(optax.adam), ("optax transformation", "adam", "call it")),
    "numbers for views": (lambda: jc.prune.top_kast(0.5, 0.6), ("forward", "0.5", "magnitude(0.5)")),
    "a fit's name": (lambda: jc.quant.fake(4, fit="mse"), ("fit", "'mse'", "jc.quant.mse()")),
    "a fit's maker": (lambda: jc.quant.lsq(4, start=jc.quant.mse), ("start", "jc.quant.mse", "call it")),
    "a fit's maker for inputs": (
        lambda: jc.rewrite.calibrate(net, PARAMS, [X], fit=jc.quant.percentile),
        ("fit", "jc.quant.percentile", "call it"),
    ),
    "complex weights on a grid": (lambda: jc.quant.fit_grid(1j * X, 4), ("w", "complex64", "real numbers")),
    "a number on a grid": (lambda: jc.quant.fit_grid(3.0, 4), ("w", "float", "an array")),
    "another tensor's grid": (
        lambda: jc.quant.quantize(X, jc.quant.fit_grid(PARAMS["b"].T, 4, axis=-1), 4),
        ("(1, 4)", "(2, 3)", "fit one to this tensor"),
    ),
    "bits for notes": (
        lambda: jc.pack.save("m.jcz", PARAMS, notes={"a": 4}),
        ("notes", "got 4 for 'a'", "describe"),
    ),
    "numbers for grids": (
        lambda: quantize(net, PARAMS, X, ranges={"a": 3, "b": 4}),
        ("ranges", "got 3 for 'a'", "calibrate"),
    ),
    "a traced choice": (
        lambda: jax.eval_shape(lambda keep: shrink(net, PARAMS, X, keep={"a": keep})[1], jnp.ones(4, bool)),
        ("keep", "'a'", "outside of them"),
    ),
    "traced labels": (
        lambda: jax.eval_shape(lambda x: jc.distill.crd_negatives(x)(jax.random.key(0), x), jnp.arange(3)),
        ("crd_negatives", "'labels' is traced", "outside of jit"),
    ),
    "notes of a traced state": (
        lambda: jax.eval_shape(lambda p: jc.optim.describe(jc.optim.compress(SGD, HALF).init(p), HALF) and X, PARAMS),
        ("describe", "'step' is traced", "outside of jit"),
    ),
    "a drawing of traced weights": (
        lambda: jax.eval_shape(lambda p: jc.measure.weight_histograms(p, p) and X, PARAMS),
        ("weight_histograms", "/a' is traced", "outside of jit"),
    ),
    "words for numbers": (lambda: jc.prune.proximal_l1("a", 0.1), ("strength", "'a'", "at least 0")),
    "rounds that are not whole": (
        lambda: jc.posttrain.equalize(net, PARAMS, X, rounds=1.5),
        ("rounds", "1.5", "whole"),
    ),
    "deviations below 0": (lambda: jc.quant.deviations(-1), ("deviations", "-1", "above 0")),
    "no places": (lambda: jc.observe.input_norms(net, PARAMS, [X], places=0), ("places", "got 0", "whole number")),
    "a size for blocks": (lambda: jc.prune.blocks(8), ("blocks", "got 8", "each axis")),
    "a temperature in words": (lambda: jc.distill.kl(X, X, temperature="a"), ("temperature", "got a", "above 0")),
    "predictions of others": (
        lambda: jc.measure.class_confusion(jnp.zeros(3, int), jnp.zeros(4, int), 2),
        ("labels", "(3,)", "(4,)"),
    ),
    "a score for a fraction": (lambda: choose("l2"), ("fraction", "'l2'", "of channels")),
    "a list of compressors": (lambda: jc.chain([HALF, HALF]), ("chain", "list", "chain(*list)")),
    "a maker in a chain": (lambda: jc.chain(jc.prune.magnitude), ("argument 0", "magnitude", "call it")),
    "a number in a chain": (lambda: jc.chain(HALF, 0.5), ("argument 1", "0.5", "magnitude(0.5)")),
    "one pair": (lambda: jc.partition((".*", HALF)), ("partition", "magnitude", "partition([")),
    "a regex as a path": (lambda: jc.partition({".*": HALF}).init(PARAMS), ("mapping", "'.*'", "[('.*', value)]")),
    "a path that is none": (lambda: jc.partition({"aa": HALF}).init(PARAMS), ("mapping", "'aa'", "nearest is 'a'")),
    "a rule for a number": (lambda: jc.partition([("a", 0.5)]), ("'a'", "0.5", "magnitude(0.5)")),
    "stacked, swapped": (lambda: jc.stacked(HALF, 0), ("compressor", "got 0", "stacked(axis, compressor)")),
    "compress, swapped": (
        lambda: jc.optim.compress(HALF, SGD),
        ("compressor", "Gradient", "compress(optimizer, compressor)"),
    ),
    "shapes for a view": (lambda: HALF.init(jax.eval_shape(lambda: PARAMS)), ("compressors", "shapes", "eval_shape(")),
    "no compressor": (lambda: jc.straight_through(0.5), ("compressor", "0.5", "magnitude(0.5)")),
    "sparsities without paths": (
        lambda: jc.prune.prune(0.5, distribution=[0.5]),
        ("element 0", "0.5", "{path: value}"),
    ),
    "bits for options": (
        lambda: jc.search.sensitivity(net, PARAMS, [X], {"8": 8}),
        ("options", "{'8': 8}", "Scheme(bits=8)"),
    ),
    "bits for a scheme": (lambda: quantize(net, PARAMS, X, scheme=4), ("scheme", "got 4", "Scheme(bits=4)")),
    "bits for ptq": (
        lambda: jc.posttrain.ptq(net, PARAMS, [X], {"a": 4}),
        ("scheme", "4 for 'a'", "Scheme(bits=4)"),
    ),
    "data for ranges": (lambda: quantize(net, PARAMS, X, ranges=[X]), ("ranges", "list", "calibrate(")),
    "rows for a table": (lambda: jc.search.allocate([1], memory_bytes=3), ("found", "[1]", "sensitivity(")),
    "a number for a score": (
        lambda: jc.search.fall_back(net, PARAMS, [X], 0.9, drop=0.1),
        ("score", "float", "score(function, params)"),
    ),
    "a rank in words": (lambda: jc.lowrank.project(rank="2"), ("rank", "'2'", "a whole number")),
    "no example": (
        lambda: shrink(net, PARAMS, keep=choose(0.5)),
        ("apply_fn", "inputs = none", "after the parameters"),
    ),
    "a flag": (
        lambda: jc.trace.sites(lambda p, x, train: net(p, x) if train else x, PARAMS, X, True),
        ("apply_fn", "bool", "bind them first"),
    ),
    "a pickle": (
        lambda: pickle.dumps(jc.rewrite.fold_weights(net, PARAMS, X)[0]),
        ("rewritten function", "pickled", "save(path, fn, params)"),
    ),
    "a word for layers": (
        lambda: jc.prune.magnitude(0.5, stacked="a").init(PARAMS),
        ("'a'", "no axis 'a'", "stacked([(regex, axis)]"),
    ),
    "a word for an axis": (lambda: jc.quant.fake(4, axis="channel").init(PARAMS), ("a:", "axis", "'channel'")),
    "another tree": (lambda: shown({"a": X, "c": X}), ("parameters", "dict", "state")),
    "other shapes": (lambda: shown({"a": X, "b": X}), ("parameter of", "(2, 3)", "compressor.init(params)")),
    "a module for a function": (
        lambda: shrink(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), X, keep=choose(0.5)),
        ("apply_fn", "Linear", "nnx.merge(graphdef, params)"),
    ),
    "parameters for a file": (lambda: jc.pack.save(PARAMS, "m.jcz"), ("path", "dict", "save(path, params)")),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_names_the_argument_what_came_and_what_was_meant(name: str) -> None:
    call, said = CALLS[name]
    with pytest.raises(JaxcompError) as caught:
        call()
    for words in said:
        assert re.search(re.escape(words), str(caught.value)), f"{words!r} is not in: {caught.value}"
