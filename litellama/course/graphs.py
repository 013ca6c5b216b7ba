"""Lesson 15's graph recorder: what CUDA graphs demand, on any machine.

``Graph`` records the calls that torch makes, with the tensors they were made on, and makes them
again.  ``instead_of_cuda`` puts it where the engine expects ``torch.cuda.CUDAGraph``, so that the
engine's own ``DecodeGraphs`` runs on a CPU; ``CAPTURABLE`` are the kernels that it then needs,
since the package's torch versions for CPUs ask the host on their way.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from litellama.kernels import AttentionBatch
from litellama.kernels.sample import gumbel


class Graph(TorchDispatchMode):
    """Calls of torch, recorded inside a ``with`` block, and made again by ``replay``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if asks_host(op, args, out):
            raise RuntimeError(f"a graph cannot hold {op}: the host would have to look at a result")
        self.calls.append((op, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for op, args, kwargs, out in self.calls:
            again = op(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if new.data_ptr() != old.data_ptr():  # else it is a view, or was written in place
                    old.copy_(new)


def asks_host(op: Any, args: Any, out: Any) -> bool:
    """Whether a call gives the host a number, or a tensor whose shape depends on numbers."""
    by_mask = "index" in op.name() and any(
        x.dtype == torch.bool for x in tree_leaves(args[1:2]) if isinstance(x, torch.Tensor)
    )
    number = any(isinstance(x, int | float) for x in tree_leaves(out))
    return number or by_mask or op.name() in ("aten::nonzero", "aten::masked_select")


def replayed(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as a graph would run it: recorded on zeros, and replayed on what it is given."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        inputs = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
        buffers = [torch.zeros_like(x) for x in inputs]
        own = iter(buffers)
        with Graph() as graph:
            out = function(*tree_map_only(torch.Tensor, lambda _: next(own), args))
        for buffer, x in zip(buffers, inputs, strict=True):
            buffer.copy_(x)
        graph.replay()
        return out

    return run


@dataclass
class Use:
    """How often a graph was recorded, and how often one that holds a call was replayed.

    calls: in all recordings together.
    """

    recordings: int = 0
    calls: int = 0
    replays: int = 0


@contextlib.contextmanager
def counting_graphs() -> Iterator[Use]:
    """Count what is done with graphs inside the block."""
    use, enter, leave, replay = Use(), Graph.__enter__, Graph.__exit__, Graph.replay

    def counted_enter(self: Graph) -> Any:
        use.recordings += 1
        use.calls -= len(self.calls)
        return enter(self)

    def counted_exit(self: Graph, *raised: Any) -> Any:
        use.calls += len(self.calls)
        return leave(self, *raised)

    def counted_replay(self: Graph) -> None:
        use.replays += bool(self.calls)
        replay(self)

    with (
        patch.object(Graph, "__enter__", counted_enter),
        patch.object(Graph, "__exit__", counted_exit),
        patch.object(Graph, "replay", counted_replay),
    ):
        yield use


@contextlib.contextmanager
def instead_of_cuda(graph: type[Graph]) -> Iterator[None]:
    """Let code that captures CUDA graphs record with ``graph``, on tensors of the CPU."""
    zeros = torch.zeros

    def unpinned(*size: Any, pin_memory: bool = False, **how: Any) -> torch.Tensor:
        return zeros(*size, **how)

    class Stream:
        def __init__(self, device: Any = None) -> None: ...

        def wait_stream(self, other: Any) -> None: ...

    stand_ins: dict[str, Any] = {
        "torch.zeros": unpinned,
        "torch.cuda.CUDAGraph": graph,
        "torch.cuda.graph": lambda recorder, **how: recorder,
        "torch.cuda.graph_pool_handle": lambda: None,
        "torch.cuda.Stream": Stream,
        "torch.cuda.current_stream": Stream,
        "torch.cuda.stream": lambda stream: contextlib.nullcontext(),
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch(name, stand_in))
        yield


def flash_decoding(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float | None = None,
) -> torch.Tensor:
    """One query a sequence over as many keys as the table has room for, masked by the lengths."""
    (S, Hq, D), Hkv = q.shape, k_cache.shape[2]
    k, v = (cache[batch.block_table].flatten(1, 2) for cache in (k_cache, v_cache))
    there = torch.arange(k.shape[1], device=q.device) < batch.seq_lens[:, None]
    # What nobody wrote may be NaN, and 0 x NaN is NaN.
    k, v = (torch.where(there[:, :, None, None], x, 0.0) for x in (k, v))
    group = q.view(S, Hkv, Hq // Hkv, D)
    scores = torch.einsum("shgd,snhd->shgn", group, k) * (scale or D**-0.5)
    scores = torch.where(there[:, None, None, :], scores, -1e30)
    return torch.einsum("shgn,snhd->shgd", scores.softmax(-1), v).reshape(S, Hq, D)


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Write the rows whose slot is not negative.  The others do again what the first row does; and
    if that is padding as well, the first slot keeps what it holds."""
    rows = torch.where(slots < 0, 0, torch.arange(len(slots), device=slots.device))
    slots = slots[rows]
    targets = slots.clamp(min=0)
    for x, cache in ((k, k_cache), (v, v_cache)):
        flat = cache.view(-1, *cache.shape[2:])
        x = torch.where(slots[:, None, None] < 0, flat[targets], x[rows])
        flat.index_copy_(0, targets, x)


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seeds: torch.Tensor,
    steps: torch.Tensor,
    filters: bool = True,
) -> torch.Tensor:
    """The next tokens by Gumbel noise, for every row, greedy or not; there are no filters here."""
    if filters:
        raise ValueError("this sampler knows no top_k, top_p or min_p: leave them out")
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    return (logits + temperature[:, None] * gumbel(seeds, steps, tokens)).argmax(-1)


CAPTURABLE = {"flash_decoding": flash_decoding, "write_kv": write_kv, "sample": sample}
