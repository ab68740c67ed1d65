"""Distillation: losses that teach a student what a teacher computes. One method, one file."""

from jaxcomp.distill.kl import cross_entropy as cross_entropy
from jaxcomp.distill.kl import kl as kl
from jaxcomp.distill.kl import soft_and_hard as soft_and_hard
