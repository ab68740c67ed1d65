"""CIFAR-10's ResNet-20, compressed under its dense twin: ``--config=train/configs/cifar10_resnet20.py:w4a4``."""

from ml_collections import ConfigDict

from train.common.errors import UserError
from train.configs import cifar10

VARIANTS = {
    "sparse80": {"sparsity": 0.8, "epochs": 100.0, "learning_rate": 0.05},
    "w4a4": {"sparsity": 0.0, "bits": 4, "input_bits": 4, "epochs": 60.0, "learning_rate": 0.01},
    "channels": {"sparsity": 0.0, "macs": 0.5, "epochs": 100.0, "learning_rate": 0.05},
}
"""Fields of the student."""


def get_config(variant: str = "sparse80") -> ConfigDict:
    """A dense network of 160 epochs, then one of these; fewer with ``--config.teacher.epochs=20``.

    | variant | what | aims at, top-1 | published |
    |---|---|---|---|
    | sparse80 | 80 % of kernels zero, int8 codes | 91.25 | the dense one of He et al., 2016 |
    | w4a4 | 4 bits, first and last layer 8 | 92.45 | Li et al., APoT, 2020; of 92.96 float |
    | channels | half the multiply-accumulates | 91 | nobody whose dense one is this |

    Cost: 0.24 GFLOP a training image: minutes of an accelerator, hours of a CPU.
    """
    if variant not in VARIANTS:
        raise UserError(f"no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    config = cifar10.get_config()
    config.teacher.options = ConfigDict({"depth": 20})
    config.student.from_teacher = True
    for field, value in VARIANTS[variant].items():
        config.student[field] = value
    return config
