"""DeZero's batch normalization layer (``dezero/layers.py``) on kitae's kernel."""

from typing import Any

import dezero.layers as theirs

from kitae.dlfs._names import not_covered
from kitae.dlfs.dezero.functions import batch_norm

__all__ = ["BatchNorm"]


class BatchNorm(theirs.BatchNorm):
    """``kitae.dlfs.dezero.functions.BatchNorm`` with parameters made at the first call."""

    def __call__(self, x: Any) -> Any:
        if self.avg_mean.data is None:
            self._init_params(x)
        return batch_norm(x, self.gamma, self.beta, self.avg_mean.data, self.avg_var.data)


__getattr__ = not_covered(__name__, "dezero.layers")
