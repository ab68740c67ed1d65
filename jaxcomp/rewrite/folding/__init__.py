"""Batch norms and computed weights, folded into the parameters that sites read."""
