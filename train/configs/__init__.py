"""Configurations of the main job, one Python file a data set."""
