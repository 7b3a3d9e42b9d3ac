"""Training techniques on top of the kernels: the training loop, schedules, early stopping, checkpoints, diagnosis."""

__all__: list[str] = []
