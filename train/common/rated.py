"""Training towards short codes: the method, and a network on learned grids, cut, and without idle inputs."""

import functools
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
    """Codes of so many bits on learned grids, charged for, and zeros that stay; the same for the same bits."""

    def recipe(knobs: Knobs) -> jc.Compressor:
        del knobs
        kernels, others = (jc.pack.rated(jc.quant.lsq(own, start=jc.quant.mse())) for own in (bits, BIAS_BITS))
        return jc.partition([(".*/kernel", jc.chain(sparse_training.standing(), kernels)), (".*", others)])

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
    learned: Data,
    *,
    bits: int,
    **how: Any,
) -> Net:
    """Trains a network with the charge of the knobs, from grids that fit its weights."""
    state = sparse_training.trained(params, knobs, learned, method=method(bits), **how)
    return Net(*jax.device_get((state.params, state.compressor)))


def again(net: Net, params: Any, bits: int) -> Net:
    """Other parameters, of other shapes, on a network's grids."""
    state = method(bits).recipe(Knobs(0.0, 1)).init(params)
    return Net(params, jax.device_get(jc.with_learned(state, jc.learned(net.compressor))))


def widths(params: Any) -> tuple[int, ...]:
    """Channels of all layers but the last."""
    kernels = [leaf for path, leaf in named_leaves(params).items() if path.endswith("kernel")]
    return tuple(kernel.shape[-1] for kernel in kernels[:-1])


def view(net: Net, bits: int) -> Any:
    """The parameters as the recipe shows them."""
    return method(bits).recipe(Knobs(0.0, 1)).apply(net.params, net.compressor)


def cut(model: Functions, params: Any, images: Any) -> Any:
    """Parameters without the channels that change nothing."""
    _, small = jc.rewrite.remove_dead(model.infer, {"params": params}, images)
    return jax.device_get(small["params"])


class Pixels:
    """The pixels that a first matrix over them reads: what the others are changes nothing, and costs time.

    Args:
      params: whose ``Dense_0`` is over pixels.
    """

    def __init__(self, params: Any):
        """Finds the rows that are not all 0."""
        self.read = np.flatnonzero(np.asarray(params["Dense_0"]["kernel"]).any(axis=1))

    def images(self, learned: Data) -> Data:
        """Images of these pixels alone, ``[n, pixels, 1, 1]``."""
        flat = learned.images.reshape(len(learned.images), -1)
        return learned._replace(images=flat[:, self.read, None, None])

    def rows(self, params: Any) -> Any:
        """Parameters whose first matrix has these rows alone."""
        return self._with(params, np.asarray(params["Dense_0"]["kernel"])[self.read])

    def back(self, few: Any, params: Any) -> Any:
        """Parameters with all rows, those of other pixels 0."""
        kernel = np.zeros(params["Dense_0"]["kernel"].shape, np.float32)
        kernel[self.read] = few["Dense_0"]["kernel"]
        return self._with(few, kernel)

    def stored(self, params: Any) -> list[Any]:
        """The leaves of parameters, of the first matrix those rows, turned, so that a pixel is a column of the file's
        contexts; and which they are."""
        few = self._with(params, np.asarray(params["Dense_0"]["kernel"])[self.read].T)
        which = np.zeros(len(params["Dense_0"]["kernel"]), bool)
        which[self.read] = True
        return [*jax.tree.leaves(few), which]

    @classmethod
    def restored(cls, leaves: list[Any], structure: Any) -> Any:
        """The parameters of :meth:`stored`."""
        *few, which = leaves
        params = jax.tree.unflatten(structure, few)
        kernel = np.zeros((which.size, len(params["Dense_0"]["kernel"])), np.float32)
        kernel[which] = params["Dense_0"]["kernel"].T
        return cls._with(params, kernel)

    @staticmethod
    def _with(params: Any, kernel: np.ndarray) -> Any:
        return {**params, "Dense_0": {**params["Dense_0"], "kernel": kernel}}


def write(path: Path, model: Functions, net: Net, bits: int, images: Any, *, pixels: bool = False) -> dict[str, float]:
    """Writes a network's file: the leaves of its view, cut, by their order; what it should take, and what it takes.

    Scales are rounded to bfloat16, which the file has two bytes for.

    Args:
      path: of the file.
      model: the functions of the network.
      net: on its grids.
      bits: of its codes.
      images: to trace it on.
      pixels: whether its first matrix is over pixels: of those that are not read the file says that alone.
    """
    recipe = method(bits).recipe(Knobs(0.0, 1))
    learned = {
        path: _short(value) if path.endswith("scale") else value for path, value in jc.learned(net.compressor).items()
    }
    state = jc.with_learned(net.compressor, learned)
    notes = recipe.describe(net.params, state, 0)
    small = cut(model, recipe.apply(net.params, state), images)
    by_place = {str(place): notes[name] for place, name in enumerate(named_leaves(small))}
    size = jc.pack.save(path, Pixels(small).stored(small) if pixels else jax.tree.leaves(small), notes=by_place)
    return {"bytes": size, "rate": float(jc.pack.rate(recipe, net.params, state)) / 8}


def _short(scale: Any) -> Any:
    return jnp.asarray(scale).astype(jnp.bfloat16).astype(jnp.float32)
