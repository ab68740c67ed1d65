"""Training towards short codes: the method, and a network between its stages, whole, cut, and without idle inputs."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from train.common import sparse_training
from train.common.sparse_training import Data, Knobs, Method, cosine
from train.common.step import Functions, Penalty

BIAS_BITS = 4


class Net(NamedTuple):
    """A network on the way.

    Attributes:
      params: in floating point, behind the recipe's view.
      compressor: the recipe's state: a grid a tensor and the model of its codes.
    """

    params: Any
    compressor: Any


@functools.cache
def method(bits: int) -> Method:
    """Codes of so many bits on learned grids, charged for; the same for the same bits."""

    def recipe(knobs: Knobs) -> jc.Compressor:
        del knobs
        kernels, others = (jc.pack.rated(jc.quant.lsq(own)) for own in (bits, BIAS_BITS))
        return jc.partition([(".*/kernel", kernels), (".*", others)])

    def penalty(knobs: Knobs) -> Penalty:
        def charge(step: jax.Array, params: Any, compressor: Any) -> jax.Array:
            risen = jnp.clip((step / knobs.steps - knobs.begin) / (knobs.end - knobs.begin), 0, 1)
            return knobs.strength * risen * jc.pack.rate(recipe(knobs), params, compressor)

        return charge

    return Method(recipe, _optimizer, projects=False, penalty=penalty)


def _optimizer(knobs: Knobs, recipe: jc.Compressor) -> Any:
    """Adam for all: the models of codes at ten times the weights' rate, grids by so much of their own size."""
    del recipe

    def adam(times: float, *more: Any) -> Any:
        rate = lambda step: times * cosine(knobs)(step)  # noqa: E731
        return optax.chain(optax.scale_by_adam(), *more, optax.scale_by_learning_rate(rate))

    def whose(trained: Any) -> Any:
        return "params", {path: "grid" if path.endswith("scale") else "model" for path in trained[1]}

    grid = adam(0.3, optax.scale_by_param_block_norm(1e-6))
    return optax.multi_transform({"params": adam(1.0), "grid": grid, "model": adam(10.0)}, whose)


def trained(
    params: Any,
    knobs: Knobs,
    learnt: Data,
    *,
    bits: int,
    compressor: Any = None,
    **how: Any,
) -> Net:
    """Trains a network with the charge of the knobs, from a recipe's state or from grids that fit its weights."""
    state = sparse_training.trained(params, knobs, learnt, method=method(bits), masks=compressor, **how)
    return Net(*jax.device_get((state.params, state.compressor)))


def kept(path: Path, params: Any, bits: int, make: Callable[[], Net]) -> Net:
    """A network as an earlier run left it in a file, or made and left there."""
    if not path.exists():
        jc.pack.save(path, make()._asdict())
    begun = jax.eval_shape(lambda: method(bits).recipe(Knobs(0.0, 1)).init(params))
    return Net(**jc.pack.load(path, like={"params": params, "compressor": begun})[0])


def widths(params: Any) -> tuple[int, ...]:
    """Channels of all layers but the last."""
    kernels = [leaf for path, leaf in named_leaves(params).items() if path.endswith("kernel")]
    return tuple(kernel.shape[-1] for kernel in kernels[:-1])


def view(net: Net, bits: int) -> Any:
    """The parameters as the recipe shows them."""
    return method(bits).recipe(Knobs(0.0, 1)).apply(net.params, net.compressor)


def cut(model: Functions, net: Net, bits: int, images: Any) -> Net:
    """Without the channels that change nothing as the recipe shows them."""
    new, _ = jc.rewrite.remove_dead(model.infer, {"params": view(net, bits)}, images)
    _, small = jc.rewrite.shrink(model.infer, {"params": net.params}, images, keep=new.keep, lenient=True)
    return net._replace(params=jax.device_get(small["params"]))


class Pixels:
    """The pixels that a first matrix over them reads: what the others are changes nothing, and costs time.

    Args:
      view: parameters as they are shown, whose ``Dense_0`` is over pixels.
    """

    def __init__(self, view: Any):
        """Finds the rows that are not all 0."""
        self.read = np.flatnonzero(np.asarray(view["Dense_0"]["kernel"]).any(axis=1))

    def images(self, learnt: Data) -> Data:
        """Images of these pixels alone, ``[n, pixels, 1, 1]``."""
        flat = learnt.images.reshape(len(learnt.images), -1)
        return learnt._replace(images=flat[:, self.read, None, None])

    def rows(self, params: Any) -> Any:
        """Parameters whose first matrix has these rows alone."""
        return self._with(params, np.asarray(params["Dense_0"]["kernel"])[self.read])

    def back(self, few: Any, params: Any) -> Any:
        """Parameters with all rows, those of other pixels 0."""
        kernel = np.zeros(params["Dense_0"]["kernel"].shape, np.float32)
        kernel[self.read] = few["Dense_0"]["kernel"]
        return self._with(few, kernel)

    @staticmethod
    def _with(params: Any, kernel: np.ndarray) -> Any:
        return {**params, "Dense_0": {**params["Dense_0"], "kernel": kernel}}


def write(path: Path, model: Functions, net: Net, bits: int, images: Any) -> dict[str, float]:
    """Writes a network's file: the leaves of its view, cut, by their order; what it should take, and what it takes.

    Scales are rounded to bfloat16, which the file has two bytes for.
    """
    recipe = method(bits).recipe(Knobs(0.0, 1))
    learned = {
        path: _short(value) if path.endswith("scale") else value for path, value in jc.learned(net.compressor).items()
    }
    state = jc.with_learned(net.compressor, learned)
    notes = recipe.describe(net.params, state, 0)
    view = {"params": recipe.apply(net.params, state)}
    _, small = jc.rewrite.remove_dead(model.infer, view, images)
    named = named_leaves(small["params"])
    by_place = {str(place): notes[name] for place, name in enumerate(named)}
    size = jc.pack.save(path, list(jax.device_get(list(named.values()))), notes=by_place)
    return {"bytes": size, "rate": float(jc.pack.rate(recipe, net.params, state)) / 8}


def _short(scale: Any) -> Any:
    return jnp.asarray(scale).astype(jnp.bfloat16).astype(jnp.float32)
