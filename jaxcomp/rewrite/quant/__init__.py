"""Weights as codes, and sites that compute with integers."""
