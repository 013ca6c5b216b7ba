"""Decode steps as CUDA graphs: all launches of a step, sampling included, replayed as one.

A decode step launches hundreds of kernels of a few microseconds each, and the host takes longer to
launch them than the GPU to run them.  A CUDA graph records the launches once, with the addresses of
their tensors, and replays them with one call.  So a graph's inputs lie in tensors of its own, into
which each step is copied; and shapes are fixed, so a step is padded to the next of a few sizes:
with rows that have no keys (length 0), store nothing (slot -1) and sample greedily.

Graphs are captured when they are first needed, and all take their memory from one pool, because
only one runs at a time.  Source: NVIDIA's CUDA C++ Programming Guide, "CUDA Graphs"; one graph a
batch size as in vLLM.  Lesson 15 builds this file.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from litellama.engine.request import Request
from litellama.engine.scheduler import Scheduled
from litellama.kernels import AttentionBatch
from litellama.kernels.backend import next_power_of_2
from litellama.kernels.flash_decoding import slots
from litellama.models.decoder import Decoder
from litellama.sampling import SamplingBatch, sample

# Padding to the next of these costs at most a third more rows, from 4 on.
BATCH_SIZES = [1, 2, 4, 6, *range(8, 32, 4), *range(32, 64, 8), *range(64, 128, 16)]
SHORTEST_CONTEXT = 256

Fill = Callable[[SamplingBatch, Sequence[Scheduled]], None]


class Shape(NamedTuple):
    """What a graph is captured for: rows, the longest context, and what the sampler launches."""

    size: int
    context: int
    filters: bool
    penalties: bool


class DecodeGraphs:
    """Graphs of one model's decode step over one cache.

    tokens: int64 [max_num_seqs], what the last step sampled; a replay reads and overwrites it.
    """

    def __init__(
        self,
        model: Decoder,
        cache: torch.Tensor,
        tokens: torch.Tensor,
        *,
        max_seq_len: int,
        in_flight: int,
    ) -> None:
        self.model, self.cache, self.tokens = model, cache, tokens
        self.max_num_seqs, self.max_seq_len = len(tokens), max_seq_len
        self.block_size, self.device = cache.shape[3], tokens.device
        # Programs of attention with no split; from as many as run at once none is split further.
        self._full = -(-slots(self.device) // model.config.num_kv_heads)
        rows, width = round_up(self.max_num_seqs, 4), self._width(self._context(max_seq_len, 1))
        # ids, positions and slots; then lengths, and the block table.
        self._longs = torch.zeros(3 * rows, dtype=torch.int64, device=self.device)
        self._ints = torch.zeros(rows * (1 + width), dtype=torch.int32, device=self.device)
        # Copies to the GPU are still to come when ``run`` returns: as many sets of their sources
        # as steps can be in flight, used in turn.
        inputs = (self._longs, self._ints)
        self._sources = [
            [torch.zeros(x.shape, dtype=x.dtype, pin_memory=True) for x in inputs]
            for _ in range(in_flight)
        ]
        self._table = torch.zeros(self.max_num_seqs, width, dtype=torch.int32).numpy()
        self._widths: list[int] = []  # how many blocks of each row of the table are filled in
        # Whose settings ``sampling`` holds, and the token that each computes next.  If the next
        # step is another, its requests' settings and blocks are taken up anew.
        self._next: list[tuple[Request, int]] = []
        self.sampling = SamplingBatch(self.max_num_seqs, model.config.vocab_size, self.device)
        self._graphs: dict[Shape, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # All are captured on one stream of this GPU: of another the pool takes no memory back.
        self._stream: torch.cuda.Stream | None = None
        self._query_starts = torch.arange(rows + 1, dtype=torch.int32, device=self.device)

    def run(self, scheduled: Sequence[Scheduled], ids: Sequence[int], fill: Fill) -> torch.Tensor:
        """Sample the next token of each: int64 [n], a view of ``tokens``.

        ids: each one's last token, or -1 - i for the i-th of ``tokens``.  fill: writes their
        settings into a SamplingBatch.
        """
        shape = Shape(
            size=self._size(len(scheduled)),
            context=self._context(max(s.stop for s in scheduled), self._size(len(scheduled))),
            filters=any(s.request.params.filters for s in scheduled),
            penalties=any(s.request.params.penalises for s in scheduled),
        )
        expected, self._next = self._next, []
        captured = shape in self._graphs
        if not captured:
            fill(self.sampling, scheduled)  # so that it holds whatever the sampler needs
            self._graphs[shape] = self._capture(shape)
        if not captured or [(s.request, s.start) for s in scheduled] != expected:
            fill(self.sampling, scheduled)
            self._widths = [0] * len(scheduled)
        self._copy_inputs(shape, scheduled, ids)
        self._graphs[shape].replay()
        self._next = [(s.request, s.stop) for s in scheduled]
        return self.tokens[: len(scheduled)]

    def forget(self) -> None:
        """Take up the settings and the blocks of the next step anew, whoever is in it."""
        self._next = []

    def _size(self, count: int) -> int:
        size = next((size for size in BATCH_SIZES if size >= count), round_up(count, 32))
        return min(size, self.max_num_seqs)

    def _context(self, length: int, size: int) -> int:
        """The longest context of a graph for sequences of this length: a power of two.

        A graph of many rows serves every length, because only the number of splits depends on it.
        """
        length = self.max_seq_len if size >= self._full else length
        return max(next_power_of_2(length), SHORTEST_CONTEXT)

    def _width(self, context: int) -> int:
        """Columns of the block table."""
        return table_width(-(-context // self.block_size))

    def _copy_inputs(
        self, shape: Shape, scheduled: Sequence[Scheduled], ids: Sequence[int]
    ) -> None:
        """Write a step into the graph's inputs, and padding into the rows after it."""
        n, size, width = len(scheduled), shape.size, self._width(shape.context)
        for row, s in enumerate(scheduled):
            blocks, known = s.request.blocks, self._widths[row]
            if len(blocks) > known:
                self._table[row, known : len(blocks)] = blocks[known:]
                self._widths[row] = len(blocks)
        longs, ints = (source.numpy() for source in self._sources[0])
        self._sources.append(self._sources.pop(0))
        columns = longs[: 3 * size].reshape(3, size)
        columns[0, :n], columns[1, :n] = ids, [s.start for s in scheduled]
        places = columns[1, :n]
        block = self._table[np.arange(n), places // self.block_size].astype(np.int64)
        columns[2, :n] = block * self.block_size + places % self.block_size
        columns[:2, n:], columns[2, n:] = 0, -1
        lengths = round_up(size, 4)
        ints[:n], ints[n:lengths] = places + 1, 0
        used = lengths + size * width
        ints[lengths:used].reshape(size, width)[:n] = self._table[:n, :width]
        self._longs[: 3 * size].copy_(torch.from_numpy(longs)[: 3 * size], non_blocking=True)
        self._ints[:used].copy_(torch.from_numpy(ints)[:used], non_blocking=True)

    def _step(self, shape: Shape) -> None:
        """One decode step on the inputs: what a graph holds."""
        size, width = shape.size, self._width(shape.context)
        ids, positions, slots = self._longs[: 3 * size].view(3, size)
        lengths = round_up(size, 4)
        batch = AttentionBatch(
            query_starts=self._query_starts[: size + 1],
            seq_lens=self._ints[:size],
            block_table=self._ints[lengths : lengths + size * width].view(size, width),
            slots=slots,
            block_size=self.block_size,
            max_query_len=1,
            max_seq_len=shape.context,
        )
        hidden = self.model(resolve_ids(ids, self.tokens), positions, self.cache, batch)
        self.sampling.filters, self.sampling.penalties = shape.filters, shape.penalties
        sampled = sample(self.model.logits(hidden), self.sampling)
        self.sampling.advance(sampled)
        self.tokens[:size] = sampled

    def _capture(self, shape: Shape) -> torch.cuda.CUDAGraph:
        """Record the step, after a first run on padding alone that compiles its kernels."""
        sampled = self.tokens.clone()  # the next step reads them, and the first run overwrites them
        self._longs.zero_()
        self._longs[2 * shape.size : 3 * shape.size] = -1
        self._ints.zero_()
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        side, here = self._stream, torch.cuda.current_stream(self.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            self._step(shape)
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: their calls are none of this capture's.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
        ):
            self._step(shape)
        self.tokens.copy_(sampled)
        return graph


def resolve_ids(ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Token ids [n], with -1 - i replaced by the i-th of ``tokens``."""
    return torch.where(ids < 0, tokens[(-1 - ids).clamp(min=0)], ids)


def table_width(blocks: int) -> int:
    """Columns of a block table for so many blocks: Triton compiles for one more stride if a row
    does not begin at a multiple of 16 elements."""
    return round_up(blocks, 16)


def round_up(n: int, multiple: int) -> int:
    """The next multiple of ``multiple`` from n on."""
    return -(-n // multiple) * multiple
