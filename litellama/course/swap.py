"""Run the engine on the reader's own kernels: the last proof of a lesson."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from litellama import kernels
from litellama.kernels.rope_write_kv import rope_write_kv_reference

# Kernels that do the work of several: inside ``using`` any of these, they are taken apart.
FUSED = {"rope_write_kv": (rope_write_kv_reference, {"rms_norm", "rope", "write_kv"})}


@contextlib.contextmanager
def using(**functions: Callable[..., Any]) -> Iterator[Counter[str]]:
    """Inside the with block each named kernel of ``litellama.kernels`` is the given function.

    Yields how often each was called.  A name that is no kernel is a ``ValueError``.  A fused kernel
    that would do the work in one of their places calls its parts instead.
    """
    unknown = [name for name in functions if name not in kernels.__all__]
    if unknown:
        raise ValueError(f"litellama.kernels has no {', '.join(unknown)} to put a function in for")
    apart = {
        name: in_parts
        for name, (in_parts, parts) in FUSED.items()
        if parts & functions.keys() and name not in functions
    }
    package = {name: getattr(kernels, name) for name in (*functions, *apart)}
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for name, function in functions.items():
        setattr(kernels, name, counted(name, function))
    for name, function in apart.items():
        setattr(kernels, name, function)
    try:
        yield calls
    finally:
        for name, function in package.items():
            setattr(kernels, name, function)
