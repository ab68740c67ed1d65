"""Floor 0: types, paths and rules, exact thresholds, straight-through, errors. Knows nothing of any method."""
