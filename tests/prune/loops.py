"""Slow, obvious pruning in NumPy: loops over groups, blocks and layers, in float64."""

import itertools
import math

import numpy as np


def top(scores, count):
    """The ``count`` largest, of equals the first; NaN is largest."""
    flat = np.asarray(scores, np.float64).ravel()
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-np.where(np.isnan(flat), np.inf, flat), kind="stable")[:count]] = True
    return mask.reshape(np.shape(scores))


def nm_mask(scores, n, m):
    """The n best of each m consecutive ones of all axes but the last, flattened; of equals the first."""
    flat = np.asarray(scores, np.float64).reshape(-1, scores.shape[-1])
    mask = np.zeros(flat.shape, bool)
    for column, start in itertools.product(range(flat.shape[1]), range(0, flat.shape[0], m)):
        group = flat[start : start + m, column]
        for i in sorted(range(len(group)), key=lambda i: (-group[i], i))[:n]:
            mask[start + i, column] = True
    return mask.reshape(scores.shape)


def block_mask(scores, block, sparsity):
    """Keeps the blocks of highest mean, edges being smaller."""
    scores = np.asarray(scores, np.float64)
    corners = list(itertools.product(*(range(0, size, run) for size, run in zip(scores.shape, block, strict=True))))
    places = [tuple(slice(c, c + run) for c, run in zip(corner, block, strict=True)) for corner in corners]
    means = np.array([scores[place].mean() for place in places])
    kept = top(means, len(means) - round(sparsity * len(means)))
    mask = np.zeros(scores.shape, bool)
    for place, keep in zip(places, kept, strict=True):
        mask[place] = keep
    return mask


def lamp_scores(weights):
    """Each square over the sum of those that are not smaller; of equals the first counts as larger."""
    flat = np.asarray(weights, np.float64).ravel() ** 2
    order = sorted(range(flat.size), key=lambda i: (-flat[i], i))
    scores, total = np.zeros(flat.size), 0.0
    for i in order:
        total += flat[i]
        scores[i] = flat[i] / total if total else 0
    return scores.reshape(np.shape(weights))


def erk_densities(shapes, density):
    """The closed form: eps * sum(dims) / prod(dims), with layers that it would overfill dense, one by one."""
    ratio = [sum(shape) / math.prod(shape) for shape in shapes]
    sizes = [math.prod(shape) for shape in shapes]
    full: set[int] = set()
    while True:
        left = density * sum(sizes) - sum(sizes[i] for i in full)
        epsilon = left / sum(ratio[i] * sizes[i] for i in range(len(shapes)) if i not in full)
        over = {i for i in range(len(shapes)) if i not in full and ratio[i] * epsilon > 1}
        if not over:
            return [1.0 if i in full else ratio[i] * epsilon for i in range(len(shapes))]
        full.add(max(over, key=lambda i: ratio[i]))
