"""The specification: every backend function in NumPy, in the same order of operations, so with the same bits."""

from kitae.reference.convolution import (
    avg_pool_backward,
    avg_pool_forward,
    col2im,
    im2col,
    max_pool_backward,
    max_pool_forward,
)
from kitae.reference.dropout import dropout_backward, dropout_forward, dropout_mask
from kitae.reference.gradients import clip_grad_adaptive, clip_grad_norm, clip_grad_value, global_norm
from kitae.reference.layer_normalization import layer_norm_backward, layer_norm_forward
from kitae.reference.normalization import batch_norm_backward, batch_norm_forward, batch_norm_sizes
from kitae.reference.optimizers import OptimizerPlan
from kitae.reference.weight_normalization import weight_norm_backward, weight_norm_forward

__all__ = [
    "OptimizerPlan",
    "avg_pool_backward",
    "avg_pool_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_sizes",
    "clip_grad_adaptive",
    "clip_grad_norm",
    "clip_grad_value",
    "col2im",
    "dropout_backward",
    "dropout_forward",
    "dropout_mask",
    "global_norm",
    "im2col",
    "layer_norm_backward",
    "layer_norm_forward",
    "max_pool_backward",
    "max_pool_forward",
    "weight_norm_backward",
    "weight_norm_forward",
]
