"""The runner: packs a step's tokens with no padding, runs the model, and samples.

It owns the tensors: the weights, and the KV cache they fill.  Lesson 15 explains it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from litellama.engine.block_manager import BlockManager
from litellama.engine.graphs import DecodeGraphs, resolve_ids, table_width
from litellama.engine.pictures import Encoder, Picture, picture_features
from litellama.engine.request import Request
from litellama.engine.scheduler import Scheduled, Step
from litellama.kernels import AttentionBatch
from litellama.models.decoder import Decoder
from litellama.sampling import SamplingBatch, sample


def make_cache(model: Decoder, num_blocks: int, block_size: int) -> torch.Tensor:
    """[layers, 2, num_blocks, block_size, Hkv, D]: keys at index 0, values at 1.

    Not initialised, because attention reads only slots that were written (its tests fill the others
    with NaN): so on a CPU the pool takes memory only as it is used.
    """
    c = model.config
    shape = (c.num_layers, 2, num_blocks, block_size, c.num_kv_heads, c.head_dim)
    weight = model.embed_tokens
    return torch.empty(shape, dtype=weight.dtype, device=weight.device)


def current(device: torch.device) -> AbstractContextManager:
    """Makes a GPU the current one: streams, events and graphs belong to the current GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def one_word(s: Scheduled) -> bool:
    """Whether a request computes one token, and samples: a word's, not a part of a picture."""
    return s.num_tokens == 1 and s.samples and (s.num_output > 0 or not s.request.pictures)


class Runner:
    """A model and the cache pool that ``manager`` keeps the books of.

    On a GPU, decode steps are CUDA graphs, and tokens reach the host one step late: the next step
    finds them on the GPU.  max_seq_len: the longest prompt and answer.  encode: pixels to features,
    of a model that reads pictures.
    """

    def __init__(
        self,
        model: Decoder,
        manager: BlockManager,
        *,
        max_num_seqs: int,
        max_seq_len: int,
        encode: Encoder | None = None,
    ) -> None:
        self.model, self.manager, self.encode = model, manager, encode
        self.device = model.embed_tokens.device
        self.cache = make_cache(model, manager.num_blocks, manager.block_size)
        self.depth = 1 if self.device.type == "cuda" else 0
        # What the last step sampled, in its order, and the place of each request in that order.
        self._tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=self.device)
        self._places: dict[Request, int] = {}
        self._graphs: DecodeGraphs | None = None
        if self.depth:
            self._graphs = DecodeGraphs(
                model, self.cache, self._tokens, max_seq_len=max_seq_len, in_flight=self.depth + 1
            )

    @torch.inference_mode()
    def submit(self, step: Step) -> Callable[[], list[int]]:
        """Start a step; the result waits for the next token of each of ``step.sampling``."""
        with current(self.device):
            if step.copies:
                sources, targets = torch.tensor(step.copies, device=self.device).unbind(1)
                self.cache[:, :, targets] = self.cache[:, :, sources]
            if self._graphs and all(one_word(s) for s in step.scheduled):
                ids = [self._ids(s)[0] for s in step.scheduled]
                tokens = self._graphs.run(step.scheduled, ids, self._fill)
            else:
                if self._graphs:
                    self._graphs.forget()  # a step that failed may be computed anew, elsewhere
                tokens = self.run(step)
            self._places = {s.request: i for i, s in enumerate(step.sampling)}
            return self._bring(tokens)

    def run(self, step: Step) -> torch.Tensor:
        """Compute a step of any kind; int64 [n], the next token of each of ``step.sampling``."""
        token_ids, positions, batch = self.pack(step.scheduled)
        features = self.features((s.start, s.stop, s.request.pictures) for s in step.scheduled)
        hidden = self.model(token_ids, positions, self.cache, batch, features)
        if not step.sampling:
            return self._tokens[:0]
        # The last packed row of each request that samples: the only rows lm_head runs on.
        ends = batch.query_starts[1:].long() - 1
        rows = [i for i, s in enumerate(step.scheduled) if s.samples]
        if len(rows) < len(step.scheduled):
            ends = ends[self._tensor(rows, torch.int64)]
        logits = self.model.logits(hidden[ends])
        sampling = SamplingBatch(len(rows), logits.shape[-1], self.device)
        self._fill(sampling, step.sampling)
        self._tokens[: len(rows)] = sample(logits, sampling)
        return self._tokens[: len(rows)]

    def _bring(self, tokens: torch.Tensor) -> Callable[[], list[int]]:
        """Copy tokens to the host while it goes on; the result waits for them."""
        if not tokens.is_cuda:
            known = tokens.tolist()
            return lambda: known
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def wait() -> list[int]:
            arrived.synchronize()
            return host.tolist()

        return wait

    def _ids(self, s: Scheduled) -> list[int]:
        """The tokens that a request computes; -1 - i for one that the last step sampled i-th."""
        ids = s.request.token_ids[s.start : s.stop]
        return ids if len(ids) == s.num_tokens else [*ids, -1 - self._places[s.request]]

    def _fill(self, batch: SamplingBatch, scheduled: Sequence[Scheduled]) -> None:
        """Write the settings of requests into ``batch``, and what penalties know of their texts."""
        requests = [s.request for s in scheduled]
        batch.fill(
            [r.params for r in requests],
            seeds=[r.seed for r in requests],
            steps=[s.num_output for s in scheduled],
            texts=[r.token_ids for r in requests],
            prompt_lens=[len(r.prompt_token_ids) for r in requests],
        )
        # The last token may not have arrived: penalties find it on the GPU.
        late = [i for i, s in enumerate(scheduled) if s.stop > len(s.request.token_ids)]
        if batch.penalties and late:
            places = self._tensor([self._places[requests[i]] for i in late], torch.int64)
            batch.count(self._tensor(late, torch.int64), self._tokens[places])

    def features(
        self, spans: Iterable[tuple[int, int, Sequence[Picture]]]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What replaces the embeddings of pictures' tokens in a step; None if it has no such."""
        return picture_features(spans, self.encode, self.device) if self.encode else None

    def pack(self, scheduled: list[Scheduled]) -> tuple[torch.Tensor, torch.Tensor, AttentionBatch]:
        """Token ids [T], positions [T] and the AttentionBatch of a step."""
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        query_starts, seq_lens = [0], []
        for s in scheduled:
            token_ids += self._ids(s)
            positions += range(s.start, s.stop)
            slots += self.manager.slots(s.request.blocks, s.start, s.stop)
            query_starts.append(len(token_ids))
            seq_lens.append(s.stop)
        width = table_width(max(len(s.request.blocks) for s in scheduled))
        table = [s.request.blocks + [0] * (width - len(s.request.blocks)) for s in scheduled]
        batch = AttentionBatch(
            query_starts=self._tensor(query_starts, torch.int32),
            seq_lens=self._tensor(seq_lens, torch.int32),
            block_table=self._tensor(table, torch.int32),
            slots=self._tensor(slots, torch.int64),
            block_size=self.manager.block_size,
            max_query_len=max(s.num_tokens for s in scheduled),
            max_seq_len=max(seq_lens),
        )
        ids = self._tensor(token_ids, torch.int64)
        if self.depth:
            ids = resolve_ids(ids, self._tokens)
        return ids, self._tensor(positions, torch.int64), batch

    @torch.inference_mode()
    def all_logits(
        self, token_ids: list[int], pictures: Sequence[Picture] = (), last: int | None = None
    ) -> torch.Tensor:
        """float32 [T, vocab] on the CPU: the logits after every token of one text, or after the
        last ones only, on a cache of its own, so that running requests are not disturbed."""
        size = self.manager.block_size
        num_blocks = self.manager.blocks_for(len(token_ids))
        T = len(token_ids)
        batch = AttentionBatch(
            query_starts=self._tensor([0, T], torch.int32),
            seq_lens=self._tensor([T], torch.int32),
            block_table=self._tensor([list(range(num_blocks))], torch.int32),
            slots=torch.arange(T, device=self.device),
            block_size=size,
            max_query_len=T,
            max_seq_len=T,
        )
        ids, positions = self._tensor(token_ids, torch.int64), torch.arange(T, device=self.device)
        cache = make_cache(self.model, num_blocks, size)
        features = self.features([(0, T, pictures)])
        hidden = self.model(ids, positions, cache, batch, features)
        return self.model.logits(hidden[-last:] if last else hidden).float().cpu()

    def _tensor(self, values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)
