"""MNIST (70,000 images of 28x28): the plain CNN, taught and compressed in minutes on 2 CPU cores."""

from ml_collections import ConfigDict

from train.configs import default


def get_config() -> ConfigDict:
    """Three epochs for the teacher, six for the student."""
    config = default.get_config()
    config.dataset = "mnist"
    config.teacher.epochs = 3.0
    config.student.epochs = 6.0
    config.student.sparsity = 0.95
    return config
