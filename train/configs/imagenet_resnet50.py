"""ImageNet's ResNet-50, compressed: ``--config=train/configs/imagenet_resnet50.py:sparse80``, or another variant."""

from ml_collections import ConfigDict

from train.common.errors import UserError
from train.configs import imagenet2012

VARIANTS = {
    "sparse80": {"sparsity": 0.8},
    "sparse90": {"sparsity": 0.9},
    "w8a8": {"sparsity": 0.0, "bits": 8, "input_bits": 8, "epochs": 5.0, "learning_rate": 1e-3},
    "w4a4": {"sparsity": 0.0, "bits": 4, "input_bits": 4, "epochs": 50.0, "learning_rate": 1e-2},
    "channels": {"sparsity": 0.0, "bits": 8, "macs": 0.5, "epochs": 100.0, "learning_rate": 0.1},
}
"""Fields of the student."""


def get_config(variant: str = "sparse80") -> ConfigDict:
    """A dense network of 100 epochs, then, under it as the teacher, one of these.

    | variant | what | aims at, top-1 | published |
    |---|---|---|---|
    | sparse80 | 80 % of kernels zero, int8 codes | 75.53 | jaxpruner, magnitude, of 76.67 dense |
    | sparse90 | 90 % zero, int8 codes | 73.91 | Gale et al., The state of sparsity, 2019 |
    | w8a8 | int8 weights and inputs, trained | 76.8 | Esser et al., Learned step size quantization, 2020; 76.9 float |
    | w4a4 | 4 bits, first and last layer 8 | 76.7 | likewise |
    | channels | half the multiply-accumulates | 75.83 | Fang et al., DepGraph, 2023; of 76.15 |

    Cost, an estimate: 13 chip-hours of TPU v5e for the teacher, and for 50 epochs of student 9 (its teacher looks on);
    ``channels`` 15. Stages that round inputs compute in float32. Hardware: v5e-8 and up, or 8 GPUs of 40 GB.
    """
    if variant not in VARIANTS:
        raise UserError(f"no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    config = imagenet2012.get_config()
    for field, value in VARIANTS[variant].items():
        config.student[field] = value
    return config
