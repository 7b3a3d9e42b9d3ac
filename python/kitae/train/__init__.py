"""Training techniques on top of the kernels: the training loop, schedules, early stopping, checkpoints, diagnosis."""

from kitae.train.callback import Callback, CallbackList, LambdaCallback
from kitae.train.curves import plot_history
from kitae.train.doctor import Doctor, Finding
from kitae.train.history import History
from kitae.train.metrics import accuracy, binary_accuracy, mean_absolute_error
from kitae.train.pictures import (
    plot_activation_histograms,
    plot_gradient_histograms,
    plot_learning_rate,
    plot_run,
    plot_update_ratios,
)
from kitae.train.tensorboard import TensorBoard
from kitae.train.trainer import Trainer
from kitae.train.truncated_bptt import TruncatedBPTT

__all__ = [
    "Callback",
    "CallbackList",
    "Doctor",
    "Finding",
    "History",
    "LambdaCallback",
    "TensorBoard",
    "Trainer",
    "TruncatedBPTT",
    "accuracy",
    "binary_accuracy",
    "mean_absolute_error",
    "plot_activation_histograms",
    "plot_gradient_histograms",
    "plot_history",
    "plot_learning_rate",
    "plot_run",
    "plot_update_ratios",
]
