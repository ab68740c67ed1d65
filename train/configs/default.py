"""The main job's fields, with defaults for a small-image set that has no configuration of its own.

``--help`` shows the comment beside each.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A plain CNN taught for 10 epochs, then compressed over 20."""
    return ConfigDict(
        {
            "task": "classification",  # as --task
            "dataset": "digits",  # as --dataset
            "image_size": 0,  # side to bring images to; 0: as they are
            "random_crop": 0.0,  # smallest share of an image shown in training, as 0.08; 0: its middle square
            "corrupt": "stop",  # at an image that cannot be decoded, or "skip" it in training
            "seed": 0,  # of parameters, and of the order and augmentation of images
            "batch_size": 128,  # images in a step, over all devices
            "shift": 2,  # pixels by which training images are moved at random
            "flip": False,  # whether training images are mirrored at random
            "augment": "",  # more of jc.augment that training images go through: "rand_augment(2, 9), mixup(0.2)"
            "record_every": 1.0,  # epochs from one record, test score and checkpoint to the next
            "evaluate_every": 1,  # records from one test score to the next
            "best_from": 1.0,  # fraction of a phase from which its best scored state is kept as its end; 1: the last is
            "optimizer": "adamw",  # a name of optax; "sgd" has a Nesterov momentum of 0.9
            "optimizer_options": {},  # further arguments of optax's, such as {"b2": 0.95}
            "weight_decay": 1e-4,  # of kernels
            "undecayed": "",  # regular expression of the paths of kernels that do not decay
            "warmup": 0.0,  # epochs over which the learning rate rises from 0
            "clip": 0.0,  # largest norm of all gradients together; 0: any
            "accumulate": 1,  # parts of a batch that are computed one after the other, where memory is short
            "precision": "float32",  # of the networks in training, or "bfloat16"; parameters stay float32
            "ema": 0.0,  # decay of the weights' average over steps, which is scored and shipped; 0: none
            "label_smoothing": 0.0,  # share of a label that is spread over all classes
            "teacher": {
                "model": "cnn",  # a name of train.models
                "options": {"widths": (32, 64, 128)},  # of that model
                "epochs": 10.0,  # passes over the training images
                "learning_rate": 2e-3,  # at its start; a cosine ends at 0
            },
            "student": {
                "model": "cnn",  # a name of train.models
                "options": {"widths": (32, 64, 128)},  # of that model
                "from_teacher": True,  # start from the teacher's weights (the same model only)
                "epochs": 20.0,  # passes over the training images
                "learning_rate": 2e-3,  # at its start; a cosine ends at 0
                "repeats": 1,  # views of an image in a batch, of as many fewer images
                "sparsity": 0.95,  # fraction of the kernels' weights that are zero at the end
                "scope": "global",  # what weights are ranked over: "global" or "layer"
                "prune_until": 0.6,  # fraction of the steps over which sparsity rises
                "prune_every": 10,  # steps from one ranking of the weights to the next
                "bits": 8,  # of a kernel's weight, 2 to 8
                "input_bits": 0,  # of what layers read, trained and shipped as integers; 0: weights alone are rounded
                "others_bits": 32,  # of what no recipe rounds, as biases and norms: 32, or 16 (bfloat16) in the file
                "macs": 1.0,  # fraction of the teacher's multiply-accumulates that is left, by cutting channels first
                "integers": False,  # whether a network that computes in integers is made at the end, integers.jcz
            },
            "distill": {
                "method": "soft targets",  # of train.common.distillation; several are added: "soft targets + hint"
                "temperature": 4.0,  # of the teacher's softened outputs, in soft targets
                "alpha": 0.9,  # weight of the teacher's soft targets against the hard labels
                "taps": "",  # what methods that read features compare, STUDENT=TEACHER ...; without it the last ones
                "views": 0,  # of each image, of which the teacher's answers are kept: it runs once; 0: in each step
                "k": 5,  # classes that an answer keeps
            },
        }
    )
