"""Training techniques on top of the kernels: the training loop, schedules, early stopping, checkpoints, diagnosis."""

from kitae.train.callback import Callback, CallbackList, LambdaCallback
from kitae.train.checkpoint import load_checkpoint, save_checkpoint
from kitae.train.csv_logger import CSVLogger
from kitae.train.curves import plot_history, plot_range_test
from kitae.train.early_stopping import EarlyStopping, TerminateOnNaN
from kitae.train.fine_tuning import (
    freeze,
    freeze_statistics,
    frozen_names,
    parameter_groups,
    replace_last_layers,
    trainable_gradients,
    unfreeze,
)
from kitae.train.history import History
from kitae.train.learning_rate import LearningRateScheduler, ReduceLROnPlateau
from kitae.train.metrics import (
    accuracy,
    binary_accuracy,
    confusion_matrix,
    f1,
    mean_absolute_error,
    of_whole_set,
    precision,
    recall,
)
from kitae.train.model_checkpoint import ModelCheckpoint
from kitae.train.range_test import RangeTest, compare_learning_rates, learning_rate_range_test
from kitae.train.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    Linear,
    Map,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Sequence,
    Step,
    WarmUp,
)
from kitae.train.trainer import Trainer

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "EarlyStopping",
    "Exponential",
    "History",
    "InverseTime",
    "LambdaCallback",
    "LearningRateScheduler",
    "Linear",
    "Map",
    "ModelCheckpoint",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "RangeTest",
    "ReduceLROnPlateau",
    "Schedule",
    "Sequence",
    "Step",
    "TerminateOnNaN",
    "Trainer",
    "WarmUp",
    "accuracy",
    "binary_accuracy",
    "compare_learning_rates",
    "confusion_matrix",
    "f1",
    "freeze",
    "freeze_statistics",
    "frozen_names",
    "learning_rate_range_test",
    "load_checkpoint",
    "mean_absolute_error",
    "of_whole_set",
    "parameter_groups",
    "plot_history",
    "plot_range_test",
    "precision",
    "recall",
    "replace_last_layers",
    "save_checkpoint",
    "trainable_gradients",
    "unfreeze",
]
