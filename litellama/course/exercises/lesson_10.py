"""Exercises of lesson 10: what a cache costs, and how blocks are found, read, lost and copied."""

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "10_kv_cache"


# --- kv_cache_cost -------------------------------------------------------------------------------


def kv_cache_cost(
    tokens: int, layers: int, kv_heads: int, head_dim: int, element_size: int, block_size: int
) -> tuple[int, int, int]:
    per_token = 2 * layers * kv_heads * head_dim * element_size
    blocks = -(-tokens // block_size)
    return per_token, blocks, (blocks * block_size - tokens) * per_token


def _text(label: str, *sizes: int) -> Case:
    return Case(label, lambda m: sizes)


def _miscounted(per_token=None, blocks=None, idle=None):
    """The three numbers with one of the formulas replaced; the others follow from it."""

    def count(tokens, layers, kv_heads, head_dim, element_size, block_size):
        sizes = (layers, kv_heads, head_dim, element_size)
        unit = per_token(*sizes) if per_token else 2 * layers * kv_heads * head_dim * element_size
        taken = blocks(tokens, block_size) if blocks else -(-tokens // block_size)
        slots = idle(tokens, taken, block_size) if idle else taken * block_size - tokens
        return unit, taken, slots * unit

    return count


def _idle_slots(*sizes):
    per_token, blocks, _ = kv_cache_cost(*sizes)
    return per_token, blocks, blocks * sizes[-1] - sizes[0]


KV_CACHE_COST = Exercise(
    name="kv_cache_cost",
    lesson=LESSON,
    title="What a text takes",
    difficulty=2,
    minutes=10,
    reference=kv_cache_cost,
    outputs=("bytes_per_token", "blocks", "idle_bytes"),
    cases=(
        _text("46 tokens of SmolLM2, float32", 46, 30, 3, 64, 4, 16),
        _text("48 tokens, three full blocks", 48, 30, 3, 64, 4, 16),
        _text("1,000 tokens of Llama-3.1-8B, bfloat16", 1000, 32, 8, 128, 2, 16),
        _text("one token in a block of 4", 1, 2, 1, 8, 2, 4),
        _text("a token table", 7, 2, 3, 5, 2, 1),
    ),
    mistakes=(
        Mistake(
            "keys without values",
            _miscounted(per_token=lambda n, h, d, size: n * h * d * size),
            "only the keys are counted. Each token keeps a key and a value: times 2.",
        ),
        Mistake(
            "one layer",
            _miscounted(per_token=lambda n, h, d, size: 2 * h * d * size),
            "one layer is counted. Every layer has keys and values of its own.",
        ),
        Mistake(
            "elements for bytes",
            _miscounted(per_token=lambda n, h, d, size: 2 * n * h * d),
            "these are numbers, not bytes: each one has element_size bytes.",
        ),
        Mistake(
            "rounded down",
            _miscounted(
                blocks=lambda tokens, size: tokens // size,
                idle=lambda tokens, taken, size: -tokens % size,
            ),
            "the number of blocks is rounded down: the last, partly filled block is a block too.",
        ),
        Mistake(
            "one block too many",
            _miscounted(blocks=lambda tokens, size: tokens // size + 1),
            "a full last block gets an empty one behind it: tokens // block_size + 1 is one too "
            "many where the division has no rest.",
        ),
        Mistake(
            "idle slots for bytes",
            _idle_slots,
            "idle_bytes counts slots: each idle slot has bytes_per_token bytes.",
        ),
        Mistake(
            "filled part for the idle part",
            _miscounted(idle=lambda tokens, taken, size: tokens % size),
            "idle_bytes is what the last block holds, tokens % block_size, and not what is left "
            "over in it.",
        ),
    ),
    hints=(
        "A token keeps one key and one value, in each layer, for each key/value head.",
        "How many blocks hold 46 tokens, 16 in each? And how many hold 48? Round up.",
        "-(-tokens // block_size) rounds up. The slots of all blocks, less the tokens, are idle.",
        "per_token = 2 * layers * kv_heads * head_dim * element_size; "
        "idle = (blocks * block_size - tokens) * per_token",
    ),
)


# --- read_kv -------------------------------------------------------------------------------------


def read_kv(cache: torch.Tensor, block_table: torch.Tensor, length: int) -> torch.Tensor:
    return cache[block_table.long()].flatten(0, 1)[:length]


def _pool(num_blocks: int, size: int, heads: int, dim: int, table, length: int, half: bool = False):
    """A pool and a text's row of the block table, with an unused entry at its end."""

    def make(m: Maker):
        dtype = m.half if half else torch.float32
        cache = m.normal(num_blocks, size, heads, dim, dtype=dtype)
        return cache, torch.tensor([*table, 0], dtype=torch.int32), length

    return make


def _misread(slot_of):
    """Slots by another rule; the cases leave room in the pool for where it goes astray."""

    def mistaken(cache, block_table, length):
        size, rows = cache.shape[1], cache.flatten(0, 1)
        table = [int(block) for block in block_table]
        return rows[[slot_of(table, i, size) for i in range(length)]]

    return mistaken


READ_KV = Exercise(
    name="read_kv",
    lesson=LESSON,
    title="Keys back in order",
    difficulty=3,
    minutes=20,
    reference=read_kv,
    cases=(
        Case("blocks of 4 in any order", _pool(8, 4, 2, 16, (5, 2, 7), 12)),
        Case("the last block partly filled", _pool(8, 4, 2, 16, (3, 6, 1), 9), ragged=True),
        Case("3 heads of 5", _pool(8, 2, 3, 5, (4, 5, 2, 1), 7), ragged=True),
        Case("a token table", _pool(16, 1, 1, 7, (9, 3, 4, 10, 1), 5), ragged=True),
        Case("one token", _pool(3, 16, 3, 64, (2,), 1), ragged=True),
        Case("float16", _pool(12, 4, 2, 33, (8, 0, 3, 4), 14, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "table ignored",
            _misread(lambda table, i, size: i),
            "token i is read from slot i, as if the text lay side by side from slot 0: the block "
            "table is not used.",
        ),
        Mistake(
            "first block and onwards",
            _misread(lambda table, i, size: table[0] * size + i),
            "only the first entry of the table is used, and the rest is read from behind it. The "
            "next block can be anywhere: load the entry i // block_size.",
        ),
        Mistake(
            "offset forgotten",
            _misread(lambda table, i, size: table[i // size] * size),
            "every token of a block is the block's first one: add the offset in the block, "
            "i % block_size.",
        ),
        Mistake(
            "block for slot",
            _misread(lambda table, i, size: table[i // size] + i % size),
            "the number of the block is taken for its first slot, which is block * block_size.",
        ),
        Mistake(
            "quotient for remainder",
            _misread(lambda table, i, size: table[i // size] * size + i // size),
            "the offset is i // block_size. That says which block; the place in it is "
            "i % block_size.",
        ),
        Mistake(
            "remainder for quotient",
            _misread(lambda table, i, size: table[i % size] * size + i % size),
            "the entry of the table is i % block_size. That is the place in the block; which block "
            "is i // block_size.",
        ),
    ),
    hints=(
        "Two steps: which block holds token i, and where in it?",
        "The block's number is in memory: tl.load(table_ptr + token // BLOCK_SIZE).",
        "slot = block * BLOCK_SIZE + token % BLOCK_SIZE, and a slot has ROW numbers.",
        "x = tl.load(cache_ptr + slot * ROW + columns, mask=inside), and the same mask when it is "
        "stored at out_ptr + token * ROW + columns.",
    ),
)


# --- cached_tokens -------------------------------------------------------------------------------


def cached_tokens(prompt: tuple[int, ...], earlier: tuple, block_size: int) -> int:
    ends = range(block_size, len(prompt) + 1, block_size)
    known = {text[:end] for text in earlier for end in range(0, len(text) + 1, block_size)}
    found = max((end for end in ends if prompt[:end] in known), default=0)
    return min(found, len(prompt) - 1)


def _prompt(label: str, prompt: tuple[int, ...], *earlier: tuple[int, ...], size: int = 4) -> Case:
    return Case(label, lambda m: (prompt, earlier, size))


def _common(a, b):
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _cut(text, size):
    return [text[i : i + size] for i in range(0, len(text) - size + 1, size)]


def _without_parents(prompt, earlier, block_size):
    known = {block for text in earlier for block in _cut(text, block_size)}
    found = 0
    for block in _cut(prompt, block_size):
        if block not in known:
            break
        found += block_size
    return min(found, len(prompt) - 1)


def _with_gaps(prompt, earlier, block_size):
    known = {
        (place, block) for text in earlier for place, block in enumerate(_cut(text, block_size))
    }
    hits = sum((place, block) in known for place, block in enumerate(_cut(prompt, block_size)))
    return min(hits * block_size, len(prompt) - 1)


def _block_less(prompt, earlier, block_size):
    found = cached_tokens((*prompt, -1), earlier, block_size)
    return found - block_size if found == len(prompt) else found


_TEN = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)

CACHED_TOKENS = Exercise(
    name="cached_tokens",
    lesson=LESSON,
    title="What a prompt finds",
    difficulty=3,
    minutes=20,
    reference=cached_tokens,
    outputs=("cached",),
    cases=(
        _prompt("an empty cache", _TEN),
        _prompt("one block in common", _TEN, (1, 2, 3, 4, 5, 6, 0, 0)),
        _prompt("the earlier text ends in a block", _TEN, _TEN[:7]),
        _prompt("the longest of three", _TEN, (1, 2, 3, 4, 0), _TEN, (0, 0, 0, 0)),
        _prompt("the same text, two full blocks", _TEN[:8], _TEN),
        _prompt("the same tokens elsewhere", (5, 6, 7, 8, 1, 2, 3, 4, 9), _TEN),
        _prompt(
            "a difference in the middle",
            (1, 2, 3, 4, 0, 0, 0, 0, 9, 10, 11, 12, 5),
            (*_TEN, 11, 12),
        ),
        _prompt("a token table", _TEN[:5], _TEN[:3], (1, 2, 3, 4, 9), size=1),
    ),
    mistakes=(
        Mistake(
            "part of a block",
            lambda prompt, earlier, block_size: min(
                max((_common(prompt, text) for text in earlier), default=0), len(prompt) - 1
            ),
            "tokens are counted up to the first difference. Only full blocks have a key: round "
            "down to a multiple of block_size.",
        ),
        Mistake(
            "nothing left to compute",
            lambda prompt, earlier, block_size: cached_tokens((*prompt, -1), earlier, block_size),
            "a prompt that is cached as a whole computes nothing. Its last token must be computed "
            "again: the scores after it are what the answer begins with.",
        ),
        Mistake(
            "a block less",
            _block_less,
            "a prompt that is cached as a whole gives up its last block. Only its last token has "
            "to be computed again; the others of the block are copied.",
        ),
        Mistake(
            "parents forgotten",
            _without_parents,
            "a block is found by its own tokens alone. Keys and values depend on all tokens before "
            "them, so a block serves only behind the same beginning.",
        ),
        Mistake(
            "found after a gap",
            _with_gaps,
            "a block counts although one before it differs. Behind the first difference nothing "
            "can be used: stop there.",
        ),
        Mistake(
            "first text only",
            lambda prompt, earlier, block_size: cached_tokens(prompt, earlier[:1], block_size),
            "only the first earlier text is looked at. The blocks of all of them are cached.",
        ),
    ),
    hints=(
        "Which beginnings of the earlier texts are cached? Those that end where a block ends.",
        "Put those beginnings in a set. A tuple can be an element: text[:end].",
        "Walk along the prompt, a block at a time, while prompt[:end] is in the set.",
        "At the end, min(found, len(prompt) - 1): one token is always computed.",
    ),
)


# --- lru_hits ------------------------------------------------------------------------------------


def lru_hits(keys: tuple[int, ...], capacity: int) -> tuple[int, int]:
    return _hits(keys, capacity, lambda cached, used, count: min(cached, key=used.__getitem__))


def _hits(keys, capacity, victim):
    """Hits and losses; victim(cached, last use, number of uses) chooses the block to lose."""
    cached: list[int] = []  # in order of arrival
    used: dict[int, int] = {}
    count: dict[int, int] = {}
    hits = lost = 0
    for now, key in enumerate(keys):
        if key in cached:
            hits += 1
        else:
            if len(cached) == capacity:
                cached.remove(victim(cached, used, count))
                lost += 1
            cached.append(key)
            count[key] = 0
        used[key] = now
        count[key] += 1
    return hits, lost


def _too_early(keys, capacity):
    """As if there were room for one block less, where there is room for more than one."""
    return lru_hits(keys, max(capacity - 1, 1))


def _lookups(label: str, keys: str, capacity: int) -> Case:
    return Case(label, lambda m: (tuple(int(key) for key in keys), capacity))


LRU_HITS = Exercise(
    name="lru_hits",
    lesson=LESSON,
    title="What is forgotten first",
    difficulty=3,
    minutes=20,
    reference=lru_hits,
    outputs=("hits", "lost"),
    cases=(
        _lookups("nothing is lost", "1231231", 3),
        _lookups("room for one", "1122112", 1),
        _lookups("an old block is used again", "123143152", 3),
        _lookups("a favourite of former days", "1111234252342", 3),
        _lookups("round and round, one too many", "123412341234", 3),
        _lookups("a long trace", "31415926535897932384626433832795", 4),
    ),
    mistakes=(
        Mistake(
            "first in, first out",
            lambda keys, capacity: _hits(keys, capacity, lambda cached, used, count: cached[0]),
            "the block that came first is lost, however lately it was used. A hit makes a block "
            "the most recent one: move it to the end.",
        ),
        Mistake(
            "most recently used",
            lambda keys, capacity: _hits(
                keys, capacity, lambda cached, used, count: max(cached, key=used.__getitem__)
            ),
            "the block used last is lost, and the oldest ones stay for ever: take the other end.",
        ),
        Mistake(
            "least often used",
            lambda keys, capacity: _hits(
                keys,
                capacity,
                lambda cached, used, count: min(cached, key=lambda key: (count[key], used[key])),
            ),
            "the block with the fewest uses is lost. What counts is when it was used last.",
        ),
        Mistake(
            "never full",
            lambda keys, capacity: (len(keys) - len(set(keys)), 0),
            "nothing is ever lost: the cache has room for capacity blocks.",
        ),
        Mistake(
            "one block too few",
            _too_early,
            "a block is lost while there still is room for one more.",
        ),
        Mistake(
            "misses counted",
            lambda keys, capacity: (
                len(keys) - lru_hits(keys, capacity)[0],
                lru_hits(keys, capacity)[1],
            ),
            "hits counts the misses: a hit is a key that is in the cache when it is looked up.",
        ),
        Mistake(
            "every miss a loss",
            lambda keys, capacity: (
                lru_hits(keys, capacity)[0],
                len(keys) - lru_hits(keys, capacity)[0],
            ),
            "lost counts the misses. While the cache is not full, a miss costs nobody's content.",
        ),
    ),
    hints=(
        "Keep the keys in the order of their last use, the oldest first.",
        "An OrderedDict does that: move_to_end(key) after a hit.",
        "On a miss with capacity keys inside, popitem(last=False) removes the oldest.",
        "if key in cached: hits += 1; else, if len(cached) == capacity: popitem and lost += 1. "
        "Then cached[key] = None and cached.move_to_end(key).",
    ),
)


# --- write_shared --------------------------------------------------------------------------------


def write_shared(
    cache: torch.Tensor,
    key: torch.Tensor,
    blocks: tuple[int, ...],
    references: tuple[int, ...],
    position: int,
    spare: int,
) -> tuple[torch.Tensor, int]:
    return _written(cache, key, blocks, references, position, spare)


def _written(cache, key, blocks, references, position, spare, *, share=1, copy=True, both=False):
    """The reference with slips: who counts as sharing, what is copied, where the write goes."""
    cache, size = cache.clone(), cache.shape[1]
    block = source = blocks[position // size]
    if references[block] > share:
        block = spare
        if copy:
            cache[block] = cache[source]
    cache[block, position % size] = key
    if both:
        cache[source, position % size] = key
    return cache, block


def _shared(
    label: str, blocks: tuple[int, ...], position: int, references: tuple[int, ...]
) -> Case:
    def make(m: Maker):
        cache = m.normal(6, 4, 8)
        spare = references.index(0)
        return cache, m.normal(8), blocks, references, position, spare

    return Case(label, make)


WRITE_SHARED = Exercise(
    name="write_shared",
    lesson=LESSON,
    title="Copy on write",
    difficulty=3,
    minutes=15,
    reference=write_shared,
    outputs=("cache", "block"),
    cases=(
        _shared("two owners", (3, 1), 7, (1, 2, 0, 2, 0, 1)),
        _shared("a block of one's own", (3, 1), 6, (1, 1, 0, 2, 0, 1)),
        _shared("three owners, an earlier block", (5, 2, 4), 3, (0, 0, 1, 1, 1, 3)),
        _shared("only the neighbour is shared", (0, 5), 4, (4, 0, 0, 2, 0, 1)),
    ),
    mistakes=(
        Mistake(
            "never copied",
            lambda *args: _written(*args, share=10**6),
            "the shared block itself is written: its other owners now read your key. With more "
            "than one reference, write to a copy.",
        ),
        Mistake(
            "always copied",
            lambda *args: _written(*args, share=0),
            "a block with one owner is copied too. Nobody else reads it: write to it in place.",
        ),
        Mistake(
            "content left behind",
            lambda *args: _written(*args, copy=False),
            "the new block has the new key, but not the keys that were before it in the old one: "
            "copy the block first.",
        ),
        Mistake(
            "written to both",
            lambda *args: _written(*args, both=True),
            "the key is written to the shared block as well, perhaps before the copy was made. "
            "First copy, then write, to the copy alone.",
        ),
        Mistake(
            "last block",
            lambda cache, key, blocks, references, position, spare: _written(
                cache, key, blocks[-1:] * len(blocks), references, position, spare
            ),
            "the key goes to the text's last block, whatever the position: position // block_size "
            "says which one holds it.",
        ),
        Mistake(
            "references of the place",
            lambda cache, key, blocks, references, position, spare: _written(
                cache,
                key,
                blocks,
                tuple(
                    references[position // cache.shape[1]] if block in blocks else n
                    for block, n in enumerate(references)
                ),
                position,
                spare,
            ),
            "the owners are looked up by the block's place in the text. `references` has a number "
            "for each block of the pool: references[blocks[position // block_size]].",
        ),
        Mistake(
            "old number returned",
            lambda cache, key, blocks, references, position, spare: (
                _written(cache, key, blocks, references, position, spare)[0],
                blocks[position // cache.shape[1]],
            ),
            "the pool is right, and the block's number is that of the shared block. After a copy "
            "the text owns the spare one: that number is returned.",
        ),
    ),
    hints=(
        "Which block holds the position, and how many references has it?",
        "cache.clone() first: the function returns a new cache and leaves the old one as it was.",
        "With more than one reference: cache[spare] = cache[block], and from there on the block is "
        "the spare one.",
        "cache[block, position % block_size] = key is the last step in both cases.",
    ),
)

EXERCISES = (KV_CACHE_COST, READ_KV, CACHED_TOKENS, LRU_HITS, WRITE_SHARED)
