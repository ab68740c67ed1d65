"""ImageNet: what all its configurations share, of the schedules that papers publish."""

from ml_collections import ConfigDict

from train.configs import default


def get_config() -> ConfigDict:
    """ResNet-50 by SGD for 100 epochs, batches of 1,024, in bfloat16; its student is it again, 80 % of kernels zero.

    Dense, ``torchvision.models.resnet50`` has 76.13 % by 90 epochs of steps, jaxpruner's 76.67 %.

    A training image costs 25 GFLOP (three times the 4.1 GMACs of inference): 100 epochs are 3.1e18 FLOP, an estimate of
    13 chip-hours of TPU v5e at 35 % of its peak, and 128 M images to decode (``python -m train.bench input``: 320 a
    second and core).
    """
    config = default.get_config()
    config.dataset, config.image_size = "imagenet2012", 224
    config.random_crop, config.corrupt, config.shift, config.flip = 0.08, "skip", 0, True
    config.batch_size, config.precision, config.label_smoothing = 1024, "bfloat16", 0.1
    config.optimizer, config.weight_decay, config.warmup = "sgd", 5e-5, 5.0
    network = {"model": "imagenet_resnet", "options": {}, "epochs": 100.0, "learning_rate": 0.4}
    config.teacher = ConfigDict(network)
    config.student.model, config.student.options = "imagenet_resnet", ConfigDict()
    config.student.epochs, config.student.learning_rate = 50.0, 0.1
    config.student.sparsity, config.student.prune_every = 0.8, 100
    return config
