"""Counting what torch operations move, for the lessons' predictions: predict first, then count."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Memory set aside; and the view with which a matrix product ends, which torch does not call one.
FREE = ("empty", "_unsafe_view")


class CountBytes(TorchDispatchMode):
    """Inside a with block: how many torch operations run, and the bytes they read and write.

    Each operation reads all of its tensor arguments and writes all of its results.  A view (a
    slice, a reshape) or memory that is only set aside moves nothing and counts as nothing.
    Triton kernels are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.moved = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Called by torch for every operation."""
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view and not any(word in str(operation) for word in FREE):
            tensors = [t for t in tree_leaves((args, result)) if isinstance(t, torch.Tensor)]
            self.moved += sum(t.nbytes for t in tensors)
            self.operations += 1
        return result
