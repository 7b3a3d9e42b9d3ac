"""Training techniques on top of the kernels: the training loop, schedules, early stopping, checkpoints, diagnosis."""

from kitae.train.truncated_bptt import TruncatedBPTT

__all__ = ["TruncatedBPTT"]
