"""Run the engine on the reader's own kernels: the last proof of a lesson."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from litellama import kernels


@contextlib.contextmanager
def using(**functions: Callable[..., Any]) -> Iterator[Counter[str]]:
    """Inside the with block each named kernel of ``litellama.kernels`` is the given function.

    Yields how often each was called.  A name that is no kernel is a ``ValueError``.
    """
    unknown = [name for name in functions if name not in kernels.__all__]
    if unknown:
        raise ValueError(f"litellama.kernels has no {', '.join(unknown)} to put a function in for")
    package = {name: getattr(kernels, name) for name in functions}
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for name, function in functions.items():
        setattr(kernels, name, counted(name, function))
    try:
        yield calls
    finally:
        for name, function in package.items():
            setattr(kernels, name, function)
