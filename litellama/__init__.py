"""litellama: a fast LLM inference engine that is also a textbook.

``LLM`` is the front door, ``litellama.kernels`` the pieces, ``litellama.course`` what the
notebooks use.  Importing this package prepares Triton (see ``litellama.kernels.backend``), so
import it before ``triton``; everything heavier is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

from litellama.kernels import backend as _backend  # first: decides compiled or interpreted Triton

if TYPE_CHECKING:
    from litellama.llm import LLM, RequestOutput
    from litellama.sampling import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "RequestOutput", "SamplingParams"]

_HOME = {"LLM": "litellama.llm", "RequestOutput": "litellama.llm"}
_HOME["SamplingParams"] = "litellama.sampling"
_backend.prepare_triton()


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'litellama' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
