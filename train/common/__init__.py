"""Shared parts of the scripts: data, steps, the loop, checkpoints, folders, the command line."""
