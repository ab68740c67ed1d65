"""CIFAR-10: a ResNet-56 teaches a small ViT with a distillation token, which is pruned and quantized."""

from ml_collections import ConfigDict

from train.configs import cifar10


def get_config() -> ConfigDict:
    """A ViT of 6 layers of 192 channels on patches of 4 by AdamW, half of its weights zero, in int8 codes.

    Aims at 90 % top-1: small ViTs from scratch are published at 85 to 92 %, of many sizes; none of this one.

    Cost: 1 GFLOP a training image and 0.25 of its teacher: under an hour of an accelerator; not for a CPU.
    """
    config = cifar10.get_config()
    config.optimizer, config.weight_decay, config.undecayed = "adamw", 0.05, "positions|.*token"
    config.teacher.learning_rate, config.teacher.epochs = 2e-3, 100.0
    config.warmup, config.clip, config.label_smoothing, config.precision = 5.0, 1.0, 0.1, "bfloat16"
    config.augment = "rand_augment(2, 9), mixup(0.2)"
    config.student.model = "vit"
    options = {"patch": 4, "width": 192, "depth": 6, "heads": 3, "distilled": True}
    config.student.options = ConfigDict(options)
    config.student.sparsity, config.student.epochs, config.student.learning_rate = 0.5, 200.0, 1e-3
    return config
