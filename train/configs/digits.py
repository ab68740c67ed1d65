"""scikit-learn's digits, embedded: 1,797 real images of 8x8, no download. The README's table has the results."""

from ml_collections import ConfigDict

from train.configs import default


def get_config() -> ConfigDict:
    """Under a minute of training on 2 CPU cores."""
    config = default.get_config()
    config.dataset = "digits"
    config.batch_size = 64
    config.shift = 1
    config.record_every = 5.0
    config.teacher.epochs = 40.0
    config.student.epochs = 100.0
    config.student.learning_rate = 4e-3
    config.student.prune_until = 0.4
    config.student.sparsity = 0.94
    return config
