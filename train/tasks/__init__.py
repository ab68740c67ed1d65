"""Tasks: what images are asked. Each is one file and one value; all of them go through the same job."""

from train.common.errors import UserError
from train.tasks.classification import CLASSIFICATION
from train.tasks.detection import DETECTION
from train.tasks.segmentation import SEGMENTATION
from train.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, SEGMENTATION, DETECTION)}


def named(name: str) -> Task:
    """The task of a name.

    Raises:
      UserError: for one that is none; the tasks are listed.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; the tasks are: {', '.join(TASKS)}")
    return TASKS[name]
