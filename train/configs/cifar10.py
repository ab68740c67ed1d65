"""CIFAR-10: a ResNet-56 teaches a ResNet-20 that is pruned and quantized. Meant for an accelerator."""

from ml_collections import ConfigDict

from train.configs import default


def get_config() -> ConfigDict:
    """The schedule of He et al. (2016) in epochs, with a cosine in place of steps."""
    config = default.get_config()
    config.dataset = "cifar10"
    config.shift, config.flip = 4, True
    config.optimizer, config.weight_decay = "sgd", 1e-4
    config.record_every = 2.0
    config.teacher = ConfigDict({"model": "resnet", "options": {"depth": 56}, "epochs": 160.0, "learning_rate": 0.1})
    config.student.model, config.student.options = "resnet", ConfigDict({"depth": 20})
    config.student.from_teacher = False
    config.student.epochs, config.student.learning_rate = 160.0, 0.1
    config.student.sparsity, config.student.prune_every = 0.8, 50
    return config
