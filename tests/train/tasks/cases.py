"""Boxes to be scored: jittered, doubled, of another class, of equal scores, some images without any."""

import numpy as np


def case(seed: int, classes: int = 3, images: int = 12, side: float = 64.0) -> tuple[np.ndarray, np.ndarray]:
    """Answers ``[n, 30, 6]`` and labels ``[n, 8, 5]`` in float32, padded as tasks pad them."""
    rng = np.random.default_rng(seed)
    answers, labels = np.zeros((images, 30, 6), np.float32), np.full((images, 8, 5), -1, np.float32)
    for image in range(images):
        count = int(rng.integers(0, 9)) if image % 5 else 0
        corners = rng.uniform(0, side * 0.7, (count, 2))
        sides = rng.uniform(4, side * 0.3, (count, 2))
        labels[image, :count] = np.column_stack([corners, corners + sides, rng.integers(0, classes, count)])
        found = []
        for box in labels[image, :count]:
            for _ in range(rng.integers(0, 4)):
                moved = box[:4] + rng.normal(0, rng.choice([0.3, 1.5, 4.0]), 4)
                kind = box[4] if rng.random() < 0.8 else rng.integers(0, classes)
                found.append([*moved, kind, np.round(rng.uniform(0.05, 1), 1)])  # many are equal
        for _ in range(rng.integers(0, 4)):
            corner = rng.uniform(0, side * 0.7, 2)
            found.append([*corner, *(corner + rng.uniform(4, 20, 2)), rng.integers(0, classes), rng.uniform(0.05, 1)])
        found = [row for row in found if row[0] < row[2] and row[1] < row[3]][:30]
        if found:
            answers[image, : len(found)] = found
    return answers, labels
