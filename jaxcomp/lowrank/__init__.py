"""Low rank: weights as products of smaller ones. One method, one file."""

from jaxcomp.lowrank.project import project as project
