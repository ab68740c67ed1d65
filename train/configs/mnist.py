"""MNIST (70,000 images of 28x28): LeNet-5, taught and compressed in minutes on 2 CPU cores."""

from ml_collections import ConfigDict

from train.configs import default


def get_config() -> ConfigDict:
    """Three epochs for the teacher, five for the student."""
    config = default.get_config()
    config.dataset = "mnist"
    for phase in (config.teacher, config.student):
        phase.model, phase.options = "lenet5", ConfigDict({})
    config.teacher.epochs = 3.0
    config.student.epochs = 5.0
    config.student.prune_until = 0.5
    config.student.sparsity = 0.97
    return config
