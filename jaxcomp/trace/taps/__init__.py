"""Taps: values inside a function, by name, beside its results."""
