"""The main job's fields, with defaults for a small-image set that has no configuration of its own."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A plain CNN taught for 10 epochs, then compressed over 20."""
    return ConfigDict(
        {
            "dataset": "digits",
            "image_size": 0,  # side to resize images to; 0: as they are
            "seed": 0,
            "batch_size": 128,
            "shift": 2,  # pixels by which training images are moved at random
            "flip": False,  # whether they are mirrored at random
            "record_every": 1.0,  # epochs from one record, test score and checkpoint to the next
            "optimizer": "adamw",  # or "sgd" (Nesterov momentum 0.9)
            "weight_decay": 1e-4,
            "teacher": {
                "model": "cnn",
                "options": {"widths": (32, 64, 128)},
                "epochs": 10.0,
                "learning_rate": 2e-3,
            },
            "student": {
                "model": "cnn",
                "options": {"widths": (32, 64, 128)},
                "from_teacher": True,  # start from the teacher's weights (the same model only)
                "epochs": 20.0,
                "learning_rate": 2e-3,
                "temperature": 4.0,
                "alpha": 0.9,  # weight of the teacher's soft targets against the hard labels
                "sparsity": 0.95,  # fraction of the kernels' weights that are zero at the end
                "scope": "global",
                "prune_until": 0.6,  # fraction of the steps over which sparsity rises
                "prune_every": 10,  # steps from one ranking of the weights to the next
                "bits": 8,
            },
        }
    )
