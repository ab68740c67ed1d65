"""Augmentation: functions ``(key, images, labels) -> (images, labels)`` on the device, inside jit or not.

Each image draws by a key that is folded from the one given and from its index, so that its view does not depend on the
batch it comes in, nor on how many devices hold it. Images are uint8, or floating point in [0, 1].
"""

from jaxcomp.augment.augmentation import Augmentation
from jaxcomp.augment.color_jitter import color_jitter
from jaxcomp.augment.crop import pad_crop, random_resized_crop
from jaxcomp.augment.cutout import cutout
from jaxcomp.augment.erasing import random_erasing
from jaxcomp.augment.flip import flip
from jaxcomp.augment.labels import Labels
from jaxcomp.augment.mix import cutmix, mixup
from jaxcomp.augment.normalize import normalize
from jaxcomp.augment.one_of import one_of
from jaxcomp.augment.operations import OPERATIONS
from jaxcomp.augment.policies import rand_augment, trivial_augment
from jaxcomp.augment.sequence import sequence

__all__ = [
    "OPERATIONS",
    "Augmentation",
    "Labels",
    "color_jitter",
    "cutmix",
    "cutout",
    "flip",
    "mixup",
    "normalize",
    "one_of",
    "pad_crop",
    "rand_augment",
    "random_erasing",
    "random_resized_crop",
    "sequence",
    "trivial_augment",
]


def __dir__() -> list[str]:
    return __all__
