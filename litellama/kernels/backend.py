"""Which implementation a kernel call runs: Triton, compiled or interpreted, or plain torch.

``auto`` (the default) is Triton for tensors on a GPU and torch for tensors on a CPU.  ``triton``
on a CPU tensor means Triton's interpreter, which runs each program as numpy: slow, and meant for
lessons and tests.  Whether Triton interprets is fixed when Triton is first imported, so it is
settled here, before that import.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch

BACKENDS = ("auto", "triton", "torch")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_backend: ContextVar[str] = ContextVar("litellama_backend", default="auto")


def prepare_triton() -> None:
    """Set Triton's environment; a value that the user has set is left alone."""
    if not torch.cuda.is_available():  # true for NVIDIA and for AMD (ROCm) builds of torch
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # a * b + c as one rounding (FMA), as on every GPU so far; Triton 3.10 asks to be told.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


prepare_triton()

HAS_TRITON = importlib.util.find_spec("triton") is not None
triton: Any
tl: Any
if HAS_TRITON:
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
else:  # macOS, Windows: the kernels stay importable and readable, and torch runs
    triton = types.SimpleNamespace(jit=lambda function=None, **_: function or (lambda f: f))
    tl = types.SimpleNamespace(constexpr=int)


def _repair_loops_of_triton_3_6() -> None:
    """Let ``range`` take a bound that the kernel computed: Triton 3.6's interpreter makes it an int
    in a way that numpy 2.4 refuses.  Later versions do what is done here."""
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    patch_tensor = interpreter._patch_lang_tensor

    def repaired(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = repaired


def interpreting() -> bool:
    """True when Triton runs kernels in its interpreter instead of compiling them."""
    return HAS_TRITON and bool(triton.knobs.runtime.interpret)


if interpreting() and triton.__version__.startswith("3.6."):
    _repair_loops_of_triton_3_6()


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the implementation for the kernel calls inside a ``with`` block.

    name: ``"auto"``, ``"triton"`` or ``"torch"``; anything else is a ``ValueError``.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "triton" and not HAS_TRITON:
        raise ValueError(
            "the triton backend needs the package `triton`, which is not installed here "
            "(it exists for Linux); use the torch backend"
        )
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def uses_triton(x: torch.Tensor) -> bool:
    """Whether a kernel called with ``x`` runs in Triton under the current backend."""
    name = _backend.get()
    if name == "auto":
        return x.is_cuda and HAS_TRITON
    if name == "triton" and not x.is_cuda and not interpreting():
        raise ValueError(
            "the triton backend was asked to run on a CPU tensor, but Triton is set to compile for "
            "a GPU: set TRITON_INTERPRET=1 before Python starts, or move the tensor to the GPU"
        )
    return name == "triton"


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
    """Run ``kernel[grid](*args, **meta)`` on the GPU that holds the first argument, a tensor.

    Triton's interpreter gives silently wrong bfloat16 results (numpy has no such type), so there
    each bfloat16 tensor is copied to a float32 one of the same strides, and copied back after.
    """
    if 0 in grid:
        return  # nothing to do, and a grid of zero programs is an error on a GPU
    if not interpreting():
        overlap = {"launch_pdl": True} if meta.get("OVERLAP") else {}
        with torch.cuda.device_of(args[0]):  # Triton asks torch for the current one
            kernel[grid](*args, **meta, **overlap)
        return
    carried = [_as_float32(arg) for arg in args]
    kernel[grid](*carried, **meta)
    for arg, copy in zip(args, carried, strict=True):
        if copy is not arg:
            _unexpanded(arg).copy_(_unexpanded(copy))


def _as_float32(arg: Any) -> Any:
    if not isinstance(arg, torch.Tensor) or arg.dtype != torch.bfloat16:
        return arg
    copy = torch.empty_strided(arg.shape, arg.stride(), dtype=torch.float32, device=arg.device)
    _unexpanded(copy).copy_(_unexpanded(arg))
    return copy


def _unexpanded(x: torch.Tensor) -> torch.Tensor:
    """``x`` with what ``expand`` repeats (stride 0) once: torch does not write to more."""
    return x[tuple(slice(1) if stride == 0 else slice(None) for stride in x.stride())]


def require(condition: bool, message: Callable[[], str]) -> None:
    """Raise ``ValueError(message())`` unless the condition holds (the text is made only then)."""
    if not condition:
        raise ValueError(message())


def check_tensors(**tensors: torch.Tensor) -> None:
    """Refuse, by name, tensors on several devices, or of a dtype that Triton kernels would round.

    A kernel computes in float32: float64 would lose half its digits, and integers their fractions.
    """
    device = next(iter(tensors.values())).device
    require(
        all(x.device == device and x.dtype in DTYPES for x in tensors.values()),
        lambda: (
            "the Triton kernels take float32, float16 and bfloat16 tensors on one device, got "
            + ", ".join(f"{name} {x.dtype} on {x.device}" for name, x in tensors.items())
        ),
    )


@functools.cache
def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``: Triton's blocks have such sizes."""
    return 1 << max(n - 1, 0).bit_length()


def stages(wanted: int) -> int:
    """Stages of a kernel's pipelined loop; at most 2 on AMD GPUs, whose LDS has but 64 KiB."""
    return min(wanted, 2) if torch.version.hip else wanted


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program on the device can have: 227 KiB on an H100."""
    least = 64 * 1024  # the LDS of AMD's GPUs, for which torch does not say it
    if device.type != "cuda":
        return least
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", least)


@functools.cache
def can_overlap(device: torch.device) -> bool:
    """Whether kernels on the device can start while the one before them ends: from Hopper on.

    Such a kernel is launched with OVERLAP=True (programmatic dependent launch).  It waits with
    ``gdc_wait`` before it touches what a kernel may write, and with ``gdc_launch_dependents`` lets
    the next one start: at once where that one needs room for its weights only in registers, or
    little; when its loads are done where the next one's programs would be in the way.
    """
    if device.type != "cuda" or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def prefetch(ptrs, COUNT: tl.constexpr):
    """Have COUNT elements at each pointer brought into the L2 cache, and go on: nothing waits for
    them.  From Hopper on; addresses and bytes are multiples of 16 (``can_prefetch``).

    Source: ``cp.async.bulk.prefetch`` in NVIDIA's PTX ISA.
    """
    num_bytes: tl.constexpr = COUNT * ptrs.dtype.element_ty.primitive_bitwidth // 8
    sizes = tl.full(ptrs.shape, num_bytes, tl.int32)
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;", "=r,l,r",
        [ptrs.to(tl.int64), sizes], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


def can_prefetch(x: torch.Tensor) -> bool:
    """Whether every row of x (its last axis, which is dense) begins at a multiple of 16 bytes, and
    its device is one that knows ``prefetch``."""
    size = x.element_size()
    aligned = all(stride * size % 16 == 0 for stride in x.stride()[:-1])
    return can_overlap(x.device) and aligned and x.data_ptr() % 16 == 0


def warps_for(BLOCK: int) -> int:
    """Warps for one row of ``BLOCK`` elements: about 16 elements a thread, 1 to 16 warps."""
    return min(max(BLOCK // 512, 1), 16)


def most_warps() -> int:
    """Warps of the largest program, of 1,024 threads: a warp of AMD's servers has 64 of them."""
    return 16 if torch.version.hip else 32
