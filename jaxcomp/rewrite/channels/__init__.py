"""Structured pruning as a rewrite: which channels go, and the smaller function without them."""
