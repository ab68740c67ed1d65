"""Images less their mean, over their deviation."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.augment.augmentation import Augmentation
from jaxcomp.augment.labels import Labels
from jaxcomp.core.arrays import check_values
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide


def normalize(mean: Sequence[float], std: Sequence[float]) -> Augmentation:
    """Subtracts a mean from images and divides by a standard deviation; draws nothing. The last of a sequence.

    Args:
      mean: ``[channels]``, or one number for all, of channels in [0, 1].
      std: likewise, above 0.

    Returns:
      An augmentation whose images are float32 where uint8 comes in, and of their own type otherwise.

    Raises:
      ArgumentError: for a deviation that is not above 0; on calling, for other numbers of channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> normalize([0.5], [0.25])(jax.random.key(0), jnp.full((1, 1, 1, 1), 255, jnp.uint8))[0].item().__round__(4)
      2.0
    """
    check_values({"mean": mean, "std": std}, "normalize")
    means, stds = ([float(x) for x in np.ravel(np.asarray(each, float))] for each in (mean, std))
    if not stds or not min(stds) > 0:
        raise ArgumentError(f"normalize: std must be above 0 in every channel, got {std}")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        kind = wide(images.dtype)
        x = images.astype(kind) / 255 if images.dtype == jnp.uint8 else images.astype(kind)
        x = (x - jnp.array(means, kind)[None, None, None]) / jnp.array(stds, kind)[None, None, None]
        return x if images.dtype == jnp.uint8 else x.astype(images.dtype), labels

    def check(images: Array, labels: Labels) -> None:
        if not {len(means), len(stds)} <= {1, images.shape[-1]}:
            raise ArgumentError(
                f"normalize: mean and std must have 1 number or {images.shape[-1]}, one a channel, got {mean} and {std}"
            )

    return Augmentation(f"normalize({means}, {stds})", move, check)
