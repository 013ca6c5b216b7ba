"""Steps of paged attention to test with: packed queries over a cache that is otherwise NaN.

Every slot that belongs to no sequence is NaN, block 0 too, at which the unused entries of the
block table point: one key too many shows in the result.
"""

from dataclasses import dataclass

import torch

from litellama.kernels import AttentionBatch
from tests.kernels import references


@dataclass
class Step:
    """One step: the arguments of the attention kernels."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    batch: AttentionBatch

    def run(self, kernel, **options) -> torch.Tensor:
        return kernel(self.q, self.k_cache, self.v_cache, self.batch, **options)

    def expected(self, scale: float | None = None) -> torch.Tensor:
        """The result, in float64."""
        tables = (self.batch.query_starts, self.batch.seq_lens, self.batch.block_table)
        return references.paged_attention(self.q, self.k_cache, self.v_cache, *tables, scale=scale)


def make_step(
    lengths: list[tuple[int, int]],
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    shuffled: bool = True,
) -> Step:
    """Sequences of ``lengths`` = (new tokens, keys), their blocks anywhere unless not shuffled."""
    needed = [-(-keys // block_size) for _, keys in lengths]
    order = torch.randperm(sum(needed)) if shuffled else torch.arange(sum(needed))
    owned = (1 + order).split(needed)  # block 0 belongs to nobody
    table = torch.zeros(len(lengths), max(needed) + 1, dtype=torch.int32)
    cache = torch.full((2, 1 + sum(needed), block_size, kv_heads, head_dim), torch.nan)
    all_slots = []
    for s, ((new, length), blocks) in enumerate(zip(lengths, owned, strict=True)):
        table[s, : len(blocks)] = blocks
        slots = (blocks[:, None] * block_size + torch.arange(block_size)).flatten()[:length]
        cache.flatten(1, 2)[:, slots] = torch.randn(2, length, kv_heads, head_dim)
        all_slots.append(slots[length - new :])
    starts = torch.tensor([0, *(new for new, _ in lengths)]).cumsum(0)
    q = torch.randn(int(starts[-1]), q_heads, head_dim)
    batch = AttentionBatch(
        query_starts=starts.int().to(device),
        seq_lens=torch.tensor([keys for _, keys in lengths], dtype=torch.int32, device=device),
        block_table=table.to(device),
        slots=torch.cat(all_slots).to(device),
        block_size=block_size,
        max_query_len=max(new for new, _ in lengths),
        max_seq_len=max(keys for _, keys in lengths),
    )
    k_cache, v_cache = cache.to(device, dtype)
    return Step(q.to(device, dtype), k_cache, v_cache, batch)
