"""Scenes of digits, embedded: 800 canvases of 48x48 with one to four digits each, and their boxes. No download."""

from ml_collections import ConfigDict

from train.configs import default_detection


def get_config() -> ConfigDict:
    """Minutes on 2 CPU cores."""
    config = default_detection.get_config()
    config.dataset, config.image_size = "digits", 0
    config.batch_size, config.shift, config.flip = 8, 4, False
    options = {"backbone": "resnet", "backbone_options": {"depth": 8, "width": 16}, "width": 32}
    for phase in (config.teacher, config.student):
        phase.options = ConfigDict(options)
        phase.learning_rate = 4e-3
    config.teacher.epochs, config.student.epochs, config.record_every = 15.0, 25.0, 5.0
    config.student.sparsity, config.student.prune_until = 0.905, 0.4
    return config
