"""Detection on a set that has no configuration of its own: a CenterNet on MobileNetV2's maps, taught and compressed."""

from ml_collections import ConfigDict

from train.configs import default


def get_config() -> ConfigDict:
    """Images of 160 pixels a side; sizes and ratios of objects as they come."""
    config = default.get_config()
    config.task, config.image_size = "detection", 160
    config.batch_size, config.shift, config.flip = 16, 16, True
    backbone = {"backbone": "mobilenet_v2", "backbone_options": {"width": 0.35}, "width": 32}
    for phase in (config.teacher, config.student):
        phase.model, phase.options = "centernet", ConfigDict(backbone)
    config.teacher.epochs = config.student.epochs = 60.0
    config.record_every = 10.0
    config.student.sparsity, config.distill.temperature, config.distill.alpha = 0.8, 1.0, 0.5
    config.student.others_bits = 16
    return config
