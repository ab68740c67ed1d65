"""What a student cannot learn by is told of shapes alone, before its teacher is trained."""

import pytest

from train.common import data, phases, teaching
from train.common.errors import UserError
from train.configs import default

DATASET = data.load("digits")


@pytest.mark.parametrize("field", ["label_smoothing", "augment"])
def test_labels_that_are_no_classes_are_told_of_a_method_that_reads_them(field: str) -> None:
    config = default.get_config()
    config.distill.method, config.shift = "soft targets + dkd", 0
    model = phases.make_network(config, "student", DATASET)
    teaching.check(config, model, model, DATASET, None)
    config[field] = {"label_smoothing": 0.1, "augment": "mixup(0.2)"}[field]
    with pytest.raises(UserError, match=r"method='soft targets \+ dkd' reads labels as numbers of classes: leave out"):
        teaching.check(config, model, model, DATASET, phases.make_views(config, DATASET))
