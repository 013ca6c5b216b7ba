"""Draw one token a row: argmax_i x_i + T g_i over the tokens that top-k, top-p and min-p keep.

The Gumbel-max trick: with g_i = -log(-log(u_i)), u_i uniform in (0, 1), token i is the largest with
probability exp(x_i / T) / sum_j exp(x_j / T), the softmax at temperature T; and T = 0 is greedy.
u_i is a hash of (seed, step, i), so a row's token does not depend on the rows beside it.

Every filter keeps the tokens whose logit reaches a threshold; equal logits stay or go together.
Top-k: the k-th largest logit.  Top-p: the largest t for which the tokens of x >= t have the share p
of what top-k left, sum exp(x / T).  Min-p: max(x) + T log(p), a share p of the likeliest token's
probability.  The highest of the three counts, and the likeliest token always passes.

Shapes: ``logits`` [S, V], float32 or a half precision; one value of each parameter a row; the
result is int64 [S].  NaN counts as -inf; a row of nothing else gives token 0.

No sort.  A row is cut into slices, so that one row, too, fills a GPU, and read three times: for its
maximum; for the count and the mass above some levels below that; to list the candidates, which are
the tokens above the lowest level that can matter.  One program a row then narrows the threshold
between two logits, by 16 pivots a pass, over the candidates only, and draws.  A row with no filter
is read once: each slice gives its winner.  The slices do not depend on S, nor do the sums then.
The list takes 4 V bytes a row while the kernels run.
Sources: Gumbel, "Statistical Theory of Extreme Values", 1954; Xing et al., "Sorting-Free GPU
Kernels for LLM Sampling" (FlashInfer), 2025; Park et al., "Qrita", 2026, arXiv:2602.01518 (few
candidates first, then pivots).  Lesson 14 builds this file.
"""

import torch

from litellama.kernels.backend import launch, next_power_of_2, require, tl, triton, uses_triton

# Elements of a row that one program reads; the last level below the maximum is minus infinity.
SLICE, LEVELS = 2048, 16
PIVOTS = 16


def sample_reference(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seeds: torch.Tensor,
    steps: torch.Tensor,
    filters: bool = True,
) -> torch.Tensor:
    """What the kernels must compute, in plain torch."""
    logits = logits.float().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    winners = logits.argmax(-1)
    rows = (temperature > 0).nonzero()[:, 0]
    if len(rows) == 0:
        return winners
    # The rows that are not greedy; a column of each parameter, to go with their logits.
    x = logits[rows]
    T, k, p, m = (values[rows, None] for values in (temperature, top_k, top_p, min_p))
    dropped = x < (threshold(x, T, k, p, m) if filters else -torch.inf)
    tokens = (~dropped.all(0)).nonzero()[:, 0]  # only those that some row keeps need noise
    scores = x[:, tokens] + T * gumbel(seeds[rows], steps[rows], tokens)
    winners[rows] = tokens[scores.masked_fill_(dropped[:, tokens], -torch.inf).argmax(-1)]
    return winners


def threshold(
    x: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> torch.Tensor:
    """The smallest logit that passes top-k, top-p and min-p: [n, 1] from logits x [n, V].

    The parameters are [n, 1], the temperature above 0.
    """
    V = x.shape[-1]
    maximum = x.max(-1, keepdim=True).values
    likely_enough = maximum + temperature * min_p.log()
    by_k, by_p = (top_k > 0) & (top_k < V), top_p < 1
    if not (by_k | by_p).any():
        return likely_enough

    # exp((x - maximum) / temperature), also for an infinite maximum
    weights = ((x - maximum) / temperature).exp().masked_fill_(x == maximum, 1.0)
    # Only the largest logits are sorted: k, or else those that have a V-th part of the share that
    # top-p drops, because all smaller ones together have less than that share.
    nucleus = (weights >= (1 - top_p) * weights.sum(-1, keepdim=True) / V).sum(-1, keepdim=True)
    size = torch.where(by_k, top_k, torch.where(by_p, nucleus, 1))
    ordered, order = x.topk(int(size.max()))
    kth = torch.where(by_k, ordered.gather(-1, size - 1), -torch.inf)
    mass = weights.masked_fill(x < kth, 0.0).sum(-1, keepdim=True, dtype=torch.float64)
    # The first token with which the likeliest ones reach the share p.
    cumulative = weights.gather(-1, order).cumsum(-1, dtype=torch.float64)
    reached = (cumulative < top_p * mass).sum(-1, keepdim=True)
    pth = torch.where(by_p, ordered.gather(-1, torch.minimum(reached, size - 1)), kth)
    return torch.maximum(pth, likely_enough)


def gumbel(seeds: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Gumbel noise of each (seed, step, token): float32 [n, m]; seeds, steps int64 [n], tokens [m].

    A counter-based generator: splitmix64 of Steele, Lea and Flood, "Fast Splittable Pseudorandom
    Number Generators", 2014, of the seed, then of the step, then of the token.
    """
    key = mix64(mix64(seeds) + steps)
    bits = mix64(key[:, None] + tokens)
    # 1 - u, in 53 bits, never 0 nor 1.  Large noise comes of u near 1, where float32 is coarse; but
    # of 1 - u near 0, where it is fine.
    complement = (shift_right(bits, 11) | 1).float().mul_(2.0**-53).clamp_(max=1 - 2.0**-24)
    return complement.neg_().log1p_().neg_().log_().neg_()


def mix64(x: torch.Tensor) -> torch.Tensor:
    """splitmix64 of int64 values, with wrap-around arithmetic."""
    x = x - 7046029254386353131  # + 0x9E3779B97F4A7C15 as a signed number
    x = (x ^ shift_right(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ shift_right(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ shift_right(x, 31)


def shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift right; torch's own shift of int64 copies the sign bit in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@triton.jit
def splitmix64(x):
    x = x + 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def gumbel_noise(seed, step, tokens):
    """``gumbel`` of one row's seed and step, for a block of tokens."""
    key = splitmix64(splitmix64(seed.to(tl.uint64)) + step.to(tl.uint64))
    bits = splitmix64(key + tokens.to(tl.uint64))
    complement = ((bits >> 11) | 1).to(tl.int64).to(tl.float32) * (1.0 / (1 << 53))
    u = 1.0 - tl.minimum(complement, 1.0 - 1.0 / (1 << 24))
    # log(u) exact to the last bits though u is rounded: Kahan's log1p.
    exponential = tl.where(u == 1.0, complement, -tl.log(u) * (complement / (1.0 - u)))
    return -tl.log(exponential)


@triton.jit
def load_logits(ptrs, mask):
    x = tl.load(ptrs, mask=mask, other=-float("inf")).to(tl.float32)
    return tl.where(x == x, x, -float("inf"))  # NaN is not equal to itself


@triton.jit
def log_of(min_p):
    """log(min_p); for 0 not -inf but -85: no noise lifts a token by more than 41 temperatures."""
    return tl.log(tl.maximum(min_p, 1e-37))


@triton.jit
def has_filter(temperature, top_k, top_p, min_p, V):
    """Whether some filter drops tokens of a row; a greedy row needs none."""
    return (temperature > 0.0) & (((top_k > 0) & (top_k < V)) | (top_p < 1.0) | (min_p > 0.0))


@triton.jit
def slice_winner_kernel(
    logits_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seeds_ptr, steps_ptr,
    score_ptr, token_ptr, row_stride, V, SLICE: tl.constexpr, FILTERS: tl.constexpr,
):  # fmt: skip
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tokens = part * SLICE + tl.arange(0, SLICE)
    score = load_logits(logits_ptr + row * row_stride + tokens, tokens < V)
    temperature = tl.load(temperature_ptr + row)
    drawn = temperature > 0.0
    if FILTERS:  # of a row that has one, only the maximum is wanted now, as of a greedy row
        top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
        filtered = has_filter(temperature, top_k, top_p, tl.load(min_p_ptr + row), V)
        drawn = drawn & (filtered == 0)
    if drawn:
        noise = gumbel_noise(tl.load(seeds_ptr + row), tl.load(steps_ptr + row), tokens)
        score += temperature * noise
    best, winner = tl.max(score, axis=0, return_indices=True)
    tl.store(score_ptr + row * tl.num_programs(0) + part, best)
    tl.store(token_ptr + row * tl.num_programs(0) + part, part * SLICE + winner)


@triton.jit
def row_winner(score_ptr, token_ptr, row, num_slices, BLOCK_SLICES: tl.constexpr):
    """The best score of a row, and its token: the first one of equals."""
    parts = tl.arange(0, BLOCK_SLICES)
    scores = tl.load(
        score_ptr + row * num_slices + parts, mask=parts < num_slices, other=-float("inf")
    )
    best, part = tl.max(scores, axis=0, return_indices=True)
    return best, tl.load(token_ptr + row * num_slices + part)


@triton.jit
def logit_of_level(level, maximum, temperature, LEVELS: tl.constexpr):
    """Of level 0, 1, ...: a share e^-1, e^-2, ... of the likeliest token's; of the last, -inf."""
    # An explicit fma: every kernel must round to the same logit, or counts and lists would differ.
    logit = tl.fma(-1.0 - level.to(tl.float32), temperature, maximum)
    return tl.where(level == LEVELS - 1, -float("inf"), logit)


@triton.jit
def measure_levels_kernel(
    logits_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, score_ptr, token_ptr,
    count_ptr, mass_ptr, row_stride, V,
    SLICE: tl.constexpr, LEVELS: tl.constexpr, BLOCK_SLICES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    num_slices = tl.num_programs(0)
    temperature = tl.load(temperature_ptr + row)
    if has_filter(
        temperature, tl.load(top_k_ptr + row), tl.load(top_p_ptr + row), tl.load(min_p_ptr + row), V
    ):
        maximum, _ = row_winner(score_ptr, token_ptr, row, num_slices, BLOCK_SLICES)
        levels = logit_of_level(tl.arange(0, LEVELS), maximum, temperature, LEVELS)[:, None]
        count = tl.zeros([LEVELS, BLOCK], tl.int32)
        mass = tl.zeros([LEVELS, BLOCK], tl.float32)
        for start in range(0, SLICE, BLOCK):
            tokens = part * SLICE + start + tl.arange(0, BLOCK)
            x = load_logits(logits_ptr + row * row_stride + tokens, tokens < V)
            above = (x[None, :] >= levels) & (tokens < V)[None, :]
            count += above.to(tl.int32)
            mass += tl.where(above, tl.exp((x - maximum) / temperature)[None, :], 0.0)
        target = (row * num_slices + part) * LEVELS + tl.arange(0, LEVELS)
        tl.store(count_ptr + target, tl.sum(count, axis=1))
        tl.store(mass_ptr + target, tl.sum(mass, axis=1))


@triton.jit
def sum_of_slices(level_ptr, row, num_slices, LEVELS: tl.constexpr, BLOCK_SLICES: tl.constexpr):
    """A row's count, or mass, at the level that ``level_ptr`` points to."""
    parts = tl.arange(0, BLOCK_SLICES)
    ptrs = level_ptr + (row * num_slices + parts) * LEVELS
    return tl.sum(tl.load(ptrs, mask=parts < num_slices, other=0), axis=0)


@triton.jit
def choose_level(
    count_ptr, mass_ptr, row, num_slices, top_k, top_p, min_p, V,
    LEVELS: tl.constexpr, BLOCK_SLICES: tl.constexpr,
):  # fmt: skip
    """The highest level that no kept token is below."""
    parts, level = tl.arange(0, BLOCK_SLICES)[:, None], tl.arange(0, LEVELS)
    place = (row * num_slices + parts) * LEVELS + level[None, :]
    if (top_k > 0) & (top_k < V):  # also where top-p keeps fewer: it needs the mass of all k
        count = tl.sum(tl.load(count_ptr + place, mask=parts < num_slices, other=0), axis=0)
        enough = count >= top_k
    else:
        mass = tl.sum(tl.load(mass_ptr + place, mask=parts < num_slices, other=0.0), axis=0)
        need = tl.where(top_p < 1.0, top_p * tl.max(mass, axis=0), float("inf"))
        enough = (mass >= need) | (level.to(tl.float32) + 1.0 >= -log_of(min_p))
    return tl.min(tl.where(enough, level, LEVELS - 1), axis=0)


@triton.jit
def list_candidates_kernel(
    logits_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, score_ptr, token_ptr,
    count_ptr, mass_ptr, level_ptr, candidate_ptr, row_stride, V,
    SLICE: tl.constexpr, LEVELS: tl.constexpr, BLOCK_SLICES: tl.constexpr,
):  # fmt: skip
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    num_slices = tl.num_programs(0)
    temperature, top_k = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row)
    top_p, min_p = tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
    if has_filter(temperature, top_k, top_p, min_p, V):
        maximum, _ = row_winner(score_ptr, token_ptr, row, num_slices, BLOCK_SLICES)
        level = choose_level(
            count_ptr, mass_ptr, row, num_slices, top_k, top_p, min_p, V, LEVELS, BLOCK_SLICES
        )
        # The next kernel must not choose again: its sums may round in another way.
        tl.store(level_ptr + row, level, mask=part == 0)
        tokens = part * SLICE + tl.arange(0, SLICE)
        x = load_logits(logits_ptr + row * row_stride + tokens, tokens < V)
        listed = (x >= logit_of_level(level, maximum, temperature, LEVELS)) & (tokens < V)
        # What the slices before this one list says where this one's part of the list begins.
        parts = tl.arange(0, BLOCK_SLICES)
        counts = count_ptr + (row * num_slices + parts) * LEVELS + level
        start = tl.sum(tl.load(counts, mask=parts < part, other=0), axis=0)
        place = start + tl.cumsum(listed.to(tl.int32), axis=0) - 1
        tl.store(candidate_ptr + row * V + place, tokens, mask=listed)


@triton.jit
def key_of(x):
    """An integer that orders as the float32 x does: of a negative one, the bits are flipped."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def logit_of(key):
    """The float32 of an integer that ``key_of`` gave."""
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def measure_pivots(
    x_ptr, candidate_ptr, n, pivots, maximum, temperature,
    BY_MASS: tl.constexpr, PIVOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The mass, or else the count, of the n candidates that reach each pivot [PIVOTS]."""
    sums = tl.zeros([PIVOTS], tl.float32)  # a count is exact up to 2^24
    for start in range(0, n, BLOCK):
        inside = start + tl.arange(0, BLOCK) < n
        tokens = tl.load(candidate_ptr + start + tl.arange(0, BLOCK), mask=inside, other=0)
        x = load_logits(x_ptr + tokens, inside)
        weights = inside.to(tl.float32)
        if BY_MASS:
            weights = tl.where(inside, tl.exp((x - maximum) / temperature), 0.0)
        sums += tl.sum(tl.where(x[None, :] >= pivots[:, None], weights[None, :], 0.0), axis=1)
    return sums


@triton.jit
def find_threshold(
    x_ptr, candidate_ptr, n, low, high, need, maximum, temperature,
    BY_MASS: tl.constexpr, PIVOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key in [low, high) that candidates of this mass, or count, reach; else low.

    A pass leaves one of the PIVOTS + 1 intervals between the pivots: at most 8 passes from 2^32.
    """
    while high - low > 1:
        step = tl.cdiv(high - low, PIVOTS + 1)
        keys = low + (tl.arange(0, PIVOTS) + 1) * step
        pivots = logit_of(tl.minimum(keys, high - 1))
        sums = measure_pivots(
            x_ptr, candidate_ptr, n, pivots, maximum, temperature, BY_MASS, PIVOTS, BLOCK
        )
        passed = tl.sum(((keys < high) & (sums >= need)).to(tl.int64), axis=0)
        high = tl.minimum(high, low + (passed + 1) * step)
        low += passed * step
    return low


@triton.jit
def row_threshold(
    x_ptr, candidate_ptr, n, lowest, mass, maximum, temperature, top_k, top_p, min_p, V,
    PIVOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``threshold`` of one row, from its n candidates; mass: that of the whole row."""
    low, high = key_of(lowest), key_of(maximum) + 1
    if (top_k > 0) & (top_k < V):
        low = find_threshold(
            x_ptr, candidate_ptr, n, low, high, top_k, maximum, temperature, False, PIVOTS, BLOCK
        )
        pivots = tl.zeros([PIVOTS], tl.float32) + logit_of(low)
        sums = measure_pivots(
            x_ptr, candidate_ptr, n, pivots, maximum, temperature, True, PIVOTS, BLOCK
        )
        mass = tl.max(sums, axis=0)
    if top_p < 1.0:
        need = top_p * mass
        low = find_threshold(
            x_ptr, candidate_ptr, n, low, high, need, maximum, temperature, True, PIVOTS, BLOCK
        )
    return tl.maximum(logit_of(low), maximum + temperature * log_of(min_p))


@triton.jit
def draw_candidate(
    x_ptr, candidate_ptr, n, threshold, temperature, seed, step, winner, BLOCK: tl.constexpr
):
    """Of the n candidates that reach the threshold, the first with the largest x + T g."""
    best = tl.full([], -float("inf"), tl.float32)
    for start in range(0, n, BLOCK):
        inside = start + tl.arange(0, BLOCK) < n
        tokens = tl.load(candidate_ptr + start + tl.arange(0, BLOCK), mask=inside, other=0)
        x = load_logits(x_ptr + tokens, inside)
        score = x + temperature * gumbel_noise(seed, step, tokens)
        score = tl.where(x >= threshold, score, -float("inf"))
        block_best, place = tl.max(score, axis=0, return_indices=True)
        if block_best > best:  # the list is in order: of equals, the first token stays
            best = block_best
            winner = tl.load(candidate_ptr + start + place)
    return winner


@triton.jit
def sample_row_kernel(
    logits_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seeds_ptr, steps_ptr,
    score_ptr, token_ptr, count_ptr, mass_ptr, level_ptr, candidate_ptr, out_ptr,
    row_stride, num_slices, V,
    LEVELS: tl.constexpr, BLOCK_SLICES: tl.constexpr, PIVOTS: tl.constexpr, BLOCK: tl.constexpr,
    FILTERS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    maximum, winner = row_winner(score_ptr, token_ptr, row, num_slices, BLOCK_SLICES)
    if FILTERS:
        temperature, top_k = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row)
        top_p, min_p = tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
        if has_filter(temperature, top_k, top_p, min_p, V):
            level = tl.load(level_ptr + row)
            lowest = logit_of_level(level, maximum, temperature, LEVELS)
            n = sum_of_slices(count_ptr + level, row, num_slices, LEVELS, BLOCK_SLICES)
            mass_ptr += LEVELS - 1
            mass = sum_of_slices(mass_ptr, row, num_slices, LEVELS, BLOCK_SLICES)
            logits_ptr += row * row_stride
            candidate_ptr += row * V
            threshold = row_threshold(
                logits_ptr, candidate_ptr, n, lowest, mass, maximum, temperature,
                top_k, top_p, min_p, V, PIVOTS, BLOCK,
            )  # fmt: skip
            winner = draw_candidate(
                logits_ptr, candidate_ptr, n, threshold, temperature,
                tl.load(seeds_ptr + row), tl.load(steps_ptr + row), winner, BLOCK,
            )  # fmt: skip
    tl.store(out_ptr + row, winner.to(tl.int64))


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
    """One token a row of ``logits`` [S, V]: int64 [S].

    temperature, top_p, min_p: float32 [S]; top_k, seeds, steps: int64 [S].  A row that does not
    filter has top_k 0, top_p 1 and min_p 0.  filters: False leaves all three aside, and saves two
    launches.  Nothing else but the shapes decides what is launched, so a CUDA graph can hold it,
    and read other parameters from the same tensors at each replay.
    """
    parameters = (temperature, top_k, top_p, min_p, seeds, steps)
    check_parameters(logits, parameters)
    if not uses_triton(logits):
        return sample_reference(logits, *parameters, filters)
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    (S, V), stride = logits.shape, logits.stride(0)
    slices = triton.cdiv(V, SLICE)
    best = (
        torch.empty(S, slices, dtype=torch.float32, device=logits.device),
        torch.empty(S, slices, dtype=torch.int32, device=logits.device),
    )
    out = torch.empty(S, dtype=torch.int64, device=logits.device)
    launch(
        slice_winner_kernel, (slices, S), logits, *parameters, *best, stride, V,
        SLICE=SLICE, FILTERS=filters, num_warps=4,
    )  # fmt: skip
    # Without filters nothing is listed, and these are not looked at.
    lists = list_candidates(logits, parameters[:4], best) if filters else (out, out, out, out)
    launch(
        sample_row_kernel, (S,), logits, *parameters, *best, *lists, out, stride, slices, V,
        LEVELS=LEVELS, BLOCK_SLICES=next_power_of_2(slices), PIVOTS=PIVOTS, BLOCK=1024,
        FILTERS=filters, num_warps=8,
    )  # fmt: skip
    return out


def list_candidates(
    logits: torch.Tensor, filters: tuple[torch.Tensor, ...], best: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """What the rows with filters can keep: count and mass [S, slices, LEVELS], level [S], tokens
    [S, V]."""
    (S, V), stride, device = logits.shape, logits.stride(0), logits.device
    slices = triton.cdiv(V, SLICE)
    BLOCK_SLICES = next_power_of_2(slices)
    count = torch.empty(S, slices, LEVELS, dtype=torch.int32, device=device)
    mass = torch.empty(S, slices, LEVELS, dtype=torch.float32, device=device)
    level = torch.empty(S, dtype=torch.int32, device=device)
    candidates = torch.empty(S, V, dtype=torch.int32, device=device)
    launch(
        measure_levels_kernel, (slices, S), logits, *filters, *best, count, mass, stride, V,
        SLICE=SLICE, LEVELS=LEVELS, BLOCK_SLICES=BLOCK_SLICES, BLOCK=128, num_warps=4,
    )  # fmt: skip
    launch(
        list_candidates_kernel, (slices, S), logits, *filters, *best, count, mass, level,
        candidates, stride, V, SLICE=SLICE, LEVELS=LEVELS, BLOCK_SLICES=BLOCK_SLICES, num_warps=4,
    )  # fmt: skip
    return count, mass, level, candidates


def check_parameters(logits: torch.Tensor, parameters: tuple[torch.Tensor, ...]) -> None:
    """Refuse logits without a vocabulary, and parameters that are not one value a row."""
    require(
        logits.ndim == 2 and logits.shape[1] > 0,
        lambda: f"logits must be [rows, vocabulary], got {tuple(logits.shape)}",
    )
    require(
        all(p.shape == logits.shape[:1] and p.is_contiguous() for p in parameters),
        lambda: (
            f"every sampling parameter must be a contiguous [{logits.shape[0]}] tensor, one value "
            f"for each row of the logits, got {[tuple(p.shape) for p in parameters]}"
        ),
    )
