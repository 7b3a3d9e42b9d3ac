"""The doctor: from the numbers of a training run to the name of its trouble and the remedy."""

from kitae.train.doctor.doctor import Doctor
from kitae.train.doctor.findings import KINDS, THRESHOLDS, Finding

__all__ = ["KINDS", "THRESHOLDS", "Doctor", "Finding"]
