"""Scenes of digits, embedded: 800 canvases of 48x48, the class of each pixel of ink. No download."""

from ml_collections import ConfigDict

from train.configs import default_segmentation


def get_config() -> ConfigDict:
    """Minutes on 2 CPU cores."""
    config = default_segmentation.get_config()
    config.dataset, config.image_size = "digits", 0
    config.batch_size, config.shift, config.flip = 8, 4, False
    for phase in (config.teacher, config.student):
        phase.options = ConfigDict({"widths": (12, 24, 48), "attention": False})
        phase.learning_rate, phase.epochs = 1e-2, 20.0
    config.record_every = 5.0
    config.student.sparsity, config.student.prune_until = 0.9, 0.5
    return config
