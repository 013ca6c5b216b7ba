"""The runner: packs a step's tokens with no padding, runs the model, and samples.

It owns the tensors: the weights, and the KV cache they fill.
"""

from collections.abc import Callable, Iterable, Sequence

import torch

from litellama.engine.block_manager import BlockManager
from litellama.engine.pictures import Encoder, Picture, picture_features
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


class Runner:
    """A model and the cache pool that ``manager`` keeps the books of.

    encode: pixels to features, of a model that reads pictures.
    """

    depth = 0  # a step is over when ``submit`` returns

    def __init__(
        self, model: Decoder, manager: BlockManager, encode: Encoder | None = None
    ) -> None:
        self.model, self.manager, self.encode = model, manager, encode
        self.device = model.embed_tokens.device
        self.cache = make_cache(model, manager.num_blocks, manager.block_size)

    def submit(self, step: Step) -> Callable[[], list[int]]:
        """Compute a step; the result gives the next token of each of ``step.sampling``."""
        tokens = self.run(step)
        return lambda: tokens

    @torch.inference_mode()
    def run(self, step: Step) -> list[int]:
        """Compute a step; the next token of each of its requests that samples, in order."""
        if step.copies:
            sources, targets = torch.tensor(step.copies, device=self.device).unbind(1)
            self.cache[:, :, targets] = self.cache[:, :, sources]
        token_ids, positions, batch = self.pack(step.scheduled)
        features = self.features((s.start, s.stop, s.request.pictures) for s in step.scheduled)
        hidden = self.model(token_ids, positions, self.cache, batch, features)
        if not step.sampling:
            return []
        # The last packed row of each request that samples: the only rows lm_head runs on.
        ends = batch.query_starts[1:].long() - 1
        rows = [i for i, s in enumerate(step.scheduled) if s.samples]
        if len(rows) < len(step.scheduled):
            ends = ends[torch.tensor(rows, device=self.device)]
        return self.sample(step.sampling, self.model.logits(hidden[ends]))

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
            token_ids += s.request.token_ids[s.start : s.stop]
            positions += range(s.start, s.stop)
            slots += self.manager.slots(s.request.blocks, s.start, s.stop)
            query_starts.append(len(token_ids))
            seq_lens.append(s.stop)
        width = max(len(s.request.blocks) for s in scheduled)
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
        return self._tensor(token_ids, torch.int64), self._tensor(positions, torch.int64), batch

    def sample(self, sampling: list[Scheduled], logits: torch.Tensor) -> list[int]:
        """One token for each request from its row of logits [n, vocab]."""
        requests = [s.request for s in sampling]
        batch = SamplingBatch(len(requests), logits.shape[-1], self.device)
        batch.fill(
            [r.params for r in requests],
            seeds=[r.seed for r in requests],
            steps=[s.num_output for s in sampling],
            texts=[r.token_ids for r in requests],
            prompt_lens=[len(r.prompt_token_ids) for r in requests],
        )
        return sample(logits, batch).tolist()

    @torch.inference_mode()
    def all_logits(self, token_ids: list[int], pictures: Sequence[Picture] = ()) -> torch.Tensor:
        """float32 [T, vocab] on the CPU: the logits after every token of one text, on a cache of
        its own, so that running requests are not disturbed."""
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
        cache, features = (
            make_cache(self.model, num_blocks, size),
            self.features([(0, T, pictures)]),
        )
        hidden = self.model(ids, positions, cache, batch, features)
        return self.model.logits(hidden).cpu()

    def _tensor(self, values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)
