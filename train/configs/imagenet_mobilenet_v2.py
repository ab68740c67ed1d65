"""ImageNet's MobileNetV2, trained in integers of 8 bits."""

from ml_collections import ConfigDict

from train.configs import imagenet2012


def get_config() -> ConfigDict:
    """A dense MobileNetV2 of 300 epochs, then 10 in which weights and inputs are rounded, shipped as integers.

    Aims at 71.66 % top-1 (torchvision's quantized MobileNetV2, trained in 8 bits; 71.88 in float).

    Cost, an estimate: 1.8 GFLOP a training image, bound by memory rather than by arithmetic: 15 chip-hours of TPU v5e.
    Hardware: one v5e-8 or 4 GPUs; images are decoded at 320 a second and core, so that the input is what to watch.
    """
    config = imagenet2012.get_config()
    config.weight_decay = 4e-5
    config.teacher = ConfigDict({"model": "mobilenet_v2", "options": {}, "epochs": 300.0, "learning_rate": 0.4})
    config.student.model, config.student.sparsity = "mobilenet_v2", 0.0
    config.student.bits, config.student.input_bits = 8, 8
    config.student.epochs, config.student.learning_rate = 10.0, 1e-3
    return config
