"""The obvious selection of the largest scores: a stable sort in float64."""

import numpy as np


def keep_largest(scores, keep, group):
    """Masks as of ``jaxcomp.core.threshold.keep_largest``, from lists of scores."""
    masks = [np.zeros(np.shape(score), bool) for score in scores]
    for g, k in enumerate(keep):
        members = [i for i, own in enumerate(group) if own == g]
        if not members:
            continue
        flat = np.concatenate([np.asarray(scores[i], np.float64).ravel() for i in members])
        kept = np.zeros(flat.size, bool)
        kept[np.argsort(-np.where(np.isnan(flat), np.inf, flat), kind="stable")[:k]] = True
        for i, part in zip(members, np.split(kept, np.cumsum([masks[i].size for i in members])[:-1]), strict=True):
            masks[i] = part.reshape(masks[i].shape)
    return masks
