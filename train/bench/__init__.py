"""Benchmarks: what a training step pays for compression, and what an exact threshold costs."""
