"""Training techniques on top of the kernels: the training loop, schedules, early stopping, checkpoints, diagnosis."""

from kitae.train.population_statistics import precise_batch_norm

__all__: list[str] = ["precise_batch_norm"]
