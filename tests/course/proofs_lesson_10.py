"""Proofs of lesson 10's exercises: slips in the solutions, and other right answers."""

from math import ceil

import torch
from proof import Proof, wrong

from litellama.engine.block_manager import BlockManager
from litellama.kernels.backend import tl, triton


def cost_by_slots(tokens, layers, kv_heads, head_dim, element_size, block_size):
    one_layer = torch.empty(2, kv_heads, head_dim).numel() * element_size
    blocks = ceil(tokens / block_size)
    idle = sum(slot >= tokens for slot in range(blocks * block_size))
    return layers * one_layer, blocks, idle * layers * one_layer


@triton.jit
def _read_block(cache_ptr, table_ptr, out_ptr, length, ROW, SIZE: tl.constexpr, B: tl.constexpr):
    """One program for a block, and a tile of its tokens and their numbers."""
    i = tl.program_id(0)
    tokens, columns = tl.arange(0, SIZE)[:, None], tl.arange(0, B)[None, :]
    inside = (i * SIZE + tokens < length) & (columns < ROW)
    rows = tl.load(table_ptr + i) * SIZE + tokens
    keys = tl.load(cache_ptr + rows * ROW + columns, mask=inside)
    tl.store(out_ptr + (i * SIZE + tokens) * ROW + columns, keys, mask=inside)


def read_by_block(cache, block_table, length):
    _, size, H, D = cache.shape
    out = torch.empty(length, H, D, dtype=cache.dtype, device=cache.device)
    BLOCK = triton.next_power_of_2(H * D)
    grid = (triton.cdiv(length, size),)
    _read_block[grid](cache, block_table, out, length, H * D, SIZE=size, B=BLOCK)
    return out


def read_in_torch(cache, block_table, length):
    i = torch.arange(length, device=cache.device)
    return cache[block_table[i // cache.shape[1]].long(), i % cache.shape[1]]


def cached_by_the_manager(prompt, earlier, block_size):
    manager = BlockManager(1000, block_size)
    for text in (*earlier, prompt):
        keys: list[bytes] = []
        blocks: list[int] = []
        manager.extend_keys(keys, text)
        found = manager.start(blocks, keys, len(text))
        manager.publish(blocks, keys, len(text))
        manager.new_step()
    return min(found, len(prompt) - 1)


def hits_with_a_list(keys, capacity):
    recent: list[int] = []
    hits = lost = 0
    for key in keys:
        hits += key in recent
        recent = [other for other in recent if other != key]
        if len(recent) == capacity:
            lost += 1
            recent = recent[1:]
        recent.append(key)
    return hits, lost


def write_by_index(cache, key, blocks, references, position, spare):
    index, offset = divmod(position, cache.shape[1])
    block = spare if references[blocks[index]] > 1 else blocks[index]
    sources = torch.arange(len(cache), device=cache.device)
    sources[block] = blocks[index]
    new = cache[sources]
    new[block, offset] = key
    return new, block


_PER_TOKEN = "2 * layers * kv_heads * head_dim * element_size"
_ROUND_UP = "-(-tokens // block_size)"
_SLOT = "block * BLOCK_SIZE + token % BLOCK_SIZE"
_FULL = "range(block_size, len(text) + 1, block_size)"
_FITS = "while found + block_size <= len(prompt)"
_KNOWN = "(end, prompt[end - block_size : end]) in known"
_COPY = "new_cache[spare] = new_cache[block]\n        block = spare"

PROOFS = {
    "kv_cache_cost": Proof(
        wrong=(
            wrong("keys", "keys without values", (_PER_TOKEN, _PER_TOKEN[4:])),
            wrong("layer", "one layer", ("2 * layers * ", "2 * ")),
            wrong("elements", "elements for bytes", (" * element_size", "")),
            wrong("one more", "one block too many", (_ROUND_UP, "tokens // block_size + 1")),
            wrong(
                "down",
                "rounded down",
                (_ROUND_UP, "tokens // block_size"),
                ("blocks * block_size - tokens", "-tokens % block_size"),
            ),
            wrong("slots", "idle slots for bytes", ("idle_slots * bytes_per_token", "idle_slots")),
            wrong(
                "rest",
                "filled part for the idle part",
                ("blocks * block_size - tokens", "tokens % block_size"),
            ),
        ),
        right=(cost_by_slots,),
    ),
    "read_kv": Proof(
        wrong=(
            wrong("no table", "table ignored", (_SLOT, "token")),
            wrong("no offset", "offset forgotten", (_SLOT, "block * BLOCK_SIZE")),
            wrong("block", "block for slot", (_SLOT, "block + token % BLOCK_SIZE")),
            wrong(
                "quotient",
                "quotient for remainder",
                (_SLOT, "block * BLOCK_SIZE + token // BLOCK_SIZE"),
            ),
            wrong(
                "remainder",
                "remainder for quotient",
                ("table_ptr + token // BLOCK_SIZE", "table_ptr + token % BLOCK_SIZE"),
            ),
            wrong(
                "first entry",
                "first block and onwards",
                ("table_ptr + token // BLOCK_SIZE", "table_ptr"),
                (_SLOT, "block * BLOCK_SIZE + token"),
            ),
            wrong("one program", "partly written", ("[(length,)]", "[(1,)]")),
        ),
        right=(read_by_block, read_in_torch),
    ),
    "cached_tokens": Proof(
        wrong=(
            wrong(
                "whole prompt",
                "nothing left to compute",
                ("min(found, len(prompt) - 1)", "found"),
            ),
            wrong(
                "token by token",
                "part of a block",
                (_FULL, "range(1, len(text) + 1)"),
                (_FITS, "while found < len(prompt)"),
                ("prompt[: found + block_size]", "prompt[: found + 1]"),
                ("found += block_size", "found += 1"),
            ),
            wrong(
                "a block less",
                "a block less",
                (_FITS, _FITS.replace("<=", "<")),
            ),
            wrong(
                "no parents",
                "parents forgotten",
                ("known.add(text[:end])", "known.add(text[end - block_size : end])"),
                ("prompt[: found + block_size]", "prompt[found : found + block_size]"),
            ),
            wrong(
                "gap",
                "found after a gap",
                ("known.add(text[:end])", "known.add((end, text[end - block_size : end]))"),
                (
                    "    while found + block_size <= len(prompt) and "
                    "prompt[: found + block_size] in known:\n        found += block_size",
                    "    for end in range(block_size, len(prompt) + 1, block_size):\n"
                    f"        found += block_size * ({_KNOWN})",
                ),
            ),
            wrong("first", "first text only", ("for text in earlier", "for text in earlier[:1]")),
        ),
        right=(cached_by_the_manager,),
    ),
    "lru_hits": Proof(
        wrong=(
            wrong("fifo", "first in, first out", ("        cached.move_to_end(key)\n", "")),
            wrong("newest", "most recently used", ("popitem(last=False)", "popitem()")),
            wrong(
                "early",
                "one block too few",
                ("len(cached) == capacity", "cached and len(cached) >= capacity - 1"),
            ),
            wrong("endless", "never full", ("elif len(cached) == capacity", "elif False")),
            wrong(
                "misses", "misses counted", ("return hits, lost", "return len(keys) - hits, lost")
            ),
            wrong(
                "all",
                "every miss a loss",
                ("return hits, lost", "return hits, len(keys) - hits"),
            ),
        ),
        right=(hits_with_a_list,),
    ),
    "write_shared": Proof(
        wrong=(
            wrong("in place", "never copied", ("references[block] > 1", "False")),
            wrong("always", "always copied", ("references[block] > 1", "True")),
            wrong("empty", "content left behind", (_COPY, "block = spare")),
            wrong(
                "late copy",
                "written to both",
                (
                    _COPY,
                    "new_cache[block, position % block_size] = key\n"
                    "        new_cache[spare] = new_cache[block]\n        block = spare",
                ),
            ),
            wrong("last", "last block", ("blocks[position // block_size]", "blocks[-1]")),
            wrong("input", "modified its inputs", ("cache.clone()", "cache")),
            wrong(
                "place",
                "references of the place",
                ("references[block] > 1", "references[position // block_size] > 1"),
            ),
            wrong(
                "old number",
                "old number returned",
                (
                    "    new_cache[block, position % block_size] = key\n"
                    "    return new_cache, block",
                    "    new_cache[block, position % block_size] = key\n"
                    "    return new_cache, blocks[position // block_size]",
                ),
            ),
        ),
        right=(write_by_index,),
    ),
}
