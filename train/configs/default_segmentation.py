"""Segmentation on a set that has no configuration of its own: a small U-Net on tiles, taught and compressed."""

from ml_collections import ConfigDict

from train.configs import default


def get_config() -> ConfigDict:
    """Tiles of 128 pixels a side, each pixel learned once an epoch."""
    config = default.get_config()
    config.task, config.image_size = "segmentation", 128
    config.batch_size, config.shift, config.flip = 16, 16, True
    for phase in (config.teacher, config.student):
        phase.model, phase.options = "unet", ConfigDict({"widths": (8, 16, 32), "attention": False})
    config.teacher.epochs = config.student.epochs = 20.0
    config.record_every = 5.0
    config.student.sparsity, config.distill.temperature, config.distill.alpha = 0.8, 1.0, 0.5
    config.student.others_bits = 16
    return config
