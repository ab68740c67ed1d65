"""Readers of networks that other tools have written, as functions of JAX: a file, a graph, its operators' rules."""
