"""The sampling kernels: equal to the reference in torch, exact in distribution, and unmoved by what
else is in the batch."""

import importlib

import pytest
import torch

from litellama import kernels
from litellama.kernels.backend import tl, triton
from litellama.kernels.sample import LEVELS, SLICE, key_of, logit_of, row_threshold
from tests.kernels.compare import DTYPES
from tests.statistics import chi_squared_limit

# The name in ``kernels`` is the function's.
module = importlib.import_module("litellama.kernels.sample")

SETTINGS = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "hot": {"temperature": 5.0},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8},
    "top_p_nearly_1": {"top_p": 0.99999},
    "min_p": {"min_p": 0.05},
    "all": {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
}
settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def make_parameters(device: str, rows: int, **settings: float) -> list[torch.Tensor]:
    """temperature, top_k, top_p, min_p, seeds and steps of rows with one setting."""
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings
    parameters = [torch.full((rows,), float(v), device=device) for v in values.values()]
    parameters[1] = parameters[1].long()
    seeds = 2**62 + 1000 * torch.arange(rows, device=device)
    return [*parameters, seeds, seeds % 77]


def check(logits: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    tokens = kernels.sample(logits, *parameters)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, module.sample_reference(logits, *parameters))
    return tokens


@settings
@pytest.mark.parametrize("V", [1, 63, 2 * SLICE + 3])
def test_same_tokens_as_the_reference(V, settings, device):
    logits = 3 * torch.randn(4, V, device=device)
    check(logits, make_parameters(device, 4, **settings))


@pytest.mark.gpu
@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_under_the_memory_checker(dtype):
    """For tools/sanitize.py, with penalties before."""
    logits = (3 * torch.randn(3, 2 * SLICE + 3, device="cuda")).to(dtype)
    counts = torch.randint(0, 6, logits.shape, dtype=torch.int32, device="cuda")
    penalties = torch.tensor([[1.0, 1.5, 0.7], [0.0, 0.5, -0.5], [0.0, 0.25, 1.0]], device="cuda")
    by_torch = logits.clone()
    kernels.penalize(logits, counts, *penalties)
    with kernels.use_backend("torch"):
        kernels.penalize(by_torch, counts, *penalties)
    torch.testing.assert_close(logits, by_torch)
    for values in SETTINGS.values():
        check(logits, make_parameters("cuda", 3, **values))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_of_each_dtype_in_rows_with_gaps(dtype, device):
    wide = (3 * torch.randn(3, 2500, device=device)).to(dtype)
    check(wide[:, :2200], make_parameters(device, 3, top_p=0.9, temperature=0.7))
    check(wide[:, ::2], make_parameters(device, 3, top_k=7))
    check(wide[:1].expand(3, -1), make_parameters(device, 3, min_p=0.1))


def test_rows_of_every_setting_in_one_batch_get_the_tokens_they_get_alone(device):
    rows = len(SETTINGS)
    logits = 3 * torch.randn(rows, SLICE + 3, device=device)
    alone = [make_parameters(device, rows, **s) for s in SETTINGS.values()]
    alone = [[p[i : i + 1] for p in parameters] for i, parameters in enumerate(alone)]
    tokens = [kernels.sample(logits[i : i + 1], *p).item() for i, p in enumerate(alone)]
    mixed = [torch.cat(values) for values in zip(*alone, strict=True)]
    assert kernels.sample(logits, *mixed).tolist() == tokens
    turned = [values.flip(0) for values in mixed]
    assert kernels.sample(logits.flip(0), *turned).tolist() == tokens[::-1]


def test_filters_can_be_left_aside_for_half_the_launches(device, monkeypatch):
    launched = []
    launch = module.launch

    def count(kernel, *args, **meta):
        launched.append(kernel)
        launch(kernel, *args, **meta)

    monkeypatch.setattr(module, "launch", count)
    logits = torch.randn(3, 5000, device=device)
    parameters = make_parameters(device, 3)
    parameters[0][1] = 0.0
    tokens = kernels.sample(logits, *parameters)
    assert len(launched) == 4
    parameters[1:4] = make_parameters(device, 3, top_k=1, top_p=0.1, min_p=0.9)[1:4]
    unfiltered = kernels.sample(logits, *parameters, filters=False)
    assert len(launched) == 6
    assert torch.equal(unfiltered, tokens)
    with kernels.use_backend("torch"):
        assert torch.equal(kernels.sample(logits, *parameters, filters=False), tokens)


ROWS = {
    "one_token_possible": ([-torch.inf] * 70 + [-5.0] + [-torch.inf] * 30, 70),
    "nothing_possible": ([-torch.inf] * 101, 0),
    "nan_is_never_drawn": ([torch.nan] * 60 + [1.0] + [torch.nan] * 40, 60),
    "nothing_but_nan": ([torch.nan] * 101, 0),
    "infinite": ([1.0] * 30 + [torch.inf] * 2500, 30),
    "huge": ([-3e38] * 50 + [3e38] + [-3e38] * 50, 50),
}


# Triton's interpreter computes inf - inf where a GPU does, and numpy tells of it.
@pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN).*:RuntimeWarning")
@settings
@pytest.mark.parametrize("row", ROWS)
def test_rows_with_one_answer(row, settings, device):
    values, answer = ROWS[row]
    logits = torch.tensor([values], device=device)
    assert check(logits, make_parameters(device, 1, **settings)).item() == answer


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}], ids=str)
def test_the_likeliest_token_survives_every_filter(settings, device):
    logits = torch.randn(5, 300, device=device)
    parameters = make_parameters(device, 5, temperature=20.0, **settings)
    assert torch.equal(check(logits, parameters), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6, 1e30])
def test_extreme_temperatures(temperature, device):
    logits = torch.randn(4, 300, device=device)
    for settings in ({}, {"top_k": 9, "top_p": 0.9}):
        tokens = check(logits, make_parameters(device, 4, temperature=temperature, **settings))
        if temperature < 1e-5:
            assert torch.equal(tokens, logits.argmax(-1))


@triton.jit
def threshold_kernel(
    x_ptr, candidate_ptr, row_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, out_ptr, V,
    PIVOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lowest, mass, maximum = tl.load(row_ptr), tl.load(row_ptr + 1), tl.load(row_ptr + 2)
    threshold = row_threshold(
        x_ptr, candidate_ptr, V, lowest, mass, maximum, tl.load(temperature_ptr),
        tl.load(top_k_ptr), tl.load(top_p_ptr), tl.load(min_p_ptr), V, PIVOTS, BLOCK,
    )  # fmt: skip
    tl.store(out_ptr, threshold)


LOGITS = {
    "normal": lambda n: 3 * torch.randn(n),
    "negative": lambda n: -1e3 - torch.rand(n),
    "ties": lambda n: torch.randn(n).mul(2).round() / 2,
    "all_equal": lambda n: torch.full((n,), -0.0),
    "around_zero": lambda n: torch.randn(n) * 1e-20,
}


@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("pivots", [4, 16])
def test_the_search_finds_the_threshold_of_the_definition(logits, pivots, device):
    """Against sorting in float64, over all tokens as candidates."""
    V = 203
    x = LOGITS[logits](V).to(device)
    candidates = torch.arange(V, dtype=torch.int32, device=device)
    for s in (
        {"top_k": 1}, {"top_k": 50}, {"top_k": 202}, {"top_k": 30, "top_p": 0.7}, {"top_p": 0.01},
        {"top_p": 0.5}, {"top_p": 0.999}, {"top_p": 0.9, "min_p": 0.5},
    ):  # fmt: skip
        parameters = make_parameters(device, 1, temperature=0.8, **s)[:4]
        temperature, top_k, top_p, min_p = (p.item() for p in parameters)
        probabilities = torch.softmax(x.double() / temperature, -1)
        ordered = x.sort(descending=True).values
        kept = x >= ordered[(top_k or V) - 1]
        mass = probabilities * kept
        shares = [mass[x >= value].sum() / mass.sum() for value in ordered]
        if top_p < 1:
            kept &= x >= ordered[next(i for i, share in enumerate(shares) if share >= top_p)]
        kept &= probabilities >= min_p * probabilities.max()
        out = torch.empty(1, device=device)
        total = ((x - x.max()) / temperature).exp().sum()
        row = torch.stack([torch.full_like(total, -torch.inf), total, x.max()])
        threshold_kernel[(1,)](x, candidates, row, *parameters, out, V, PIVOTS=pivots, BLOCK=64)
        assert torch.equal(x >= out, kept), s
        reference = module.threshold(x[None], *(p[:, None] for p in parameters))
        assert torch.equal(x >= reference[0], kept), s


@triton.jit
def round_trip_kernel(x_ptr, key_ptr, out_ptr, BLOCK: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    key = key_of(tl.load(x_ptr + lanes))
    tl.store(key_ptr + lanes, key)
    tl.store(out_ptr + lanes, logit_of(key))


def test_keys_order_as_the_numbers_do(device):
    x = torch.tensor([-torch.inf, -3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.5], device=device)
    keys, out = torch.empty(8, dtype=torch.int64, device=device), torch.empty(8, device=device)
    round_trip_kernel[(1,)](x, keys, out, BLOCK=8)
    assert (keys.diff() > 0).all()
    assert torch.equal(out, x)


def test_candidates_below_every_level(device):
    """Kept are tokens far below the likeliest: below the last finite level, then above it."""
    logits = torch.full((6, SLICE), -2.0 * LEVELS, device=device)
    logits[:, 7] = 0.0
    tokens = check(logits, make_parameters(device, 6, temperature=1.9, top_k=2))
    assert (tokens == 7).all()
    # The k-th largest logit is the common one, and with it all of them are kept.
    tokens = check(logits, make_parameters(device, 6, temperature=4.0, top_k=2))
    assert 0 < (tokens == 7).sum() < 6


@pytest.mark.large
@pytest.mark.gpu
@pytest.mark.parametrize("V", [50257, 128256])
@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6, "top_k": 20, "top_p": 0.95}, {"top_p": 0.9}, {"min_p": 0.02},
     {"temperature": 1.3, "top_k": 5000, "top_p": 0.99}],
    ids=str,
)  # fmt: skip
def test_the_distribution_of_a_large_vocabulary(V, settings):
    """Pearson's chi-squared test on 131,072 draws, at a significance of about one in a million."""
    torch.manual_seed(0)
    logits = 2.5 * torch.randn(V, device="cuda")
    parameters = make_parameters("cuda", 1, **settings)
    T, k, p, m = (values[:, None] for values in parameters[:4])
    kept = logits >= module.threshold(logits[None], T, k, p, m)[0]
    exact = torch.softmax(logits.double() / T[0], -1) * kept
    exact /= exact.sum()
    rows, count = 1024, 128
    repeated = [values.expand(rows).contiguous() for values in parameters]
    seen = torch.zeros(V, dtype=torch.int64, device="cuda")
    for i in range(count):
        repeated[-1] = torch.arange(rows, device="cuda") + i * rows
        tokens = kernels.sample(logits.expand(rows, V), *repeated)
        seen += torch.bincount(tokens, minlength=V)
    assert seen[~kept].sum() == 0
    # A bin for each of the likeliest tokens, and 50 for all others.
    order = exact.argsort(descending=True)
    bins = torch.arange(V, device="cuda").clamp(max=100)
    bins[100:] += torch.arange(V - 100, device="cuda") % 50
    expected = torch.zeros(150, device="cuda", dtype=torch.float64)
    expected = expected.index_add(0, bins, exact[order]) * rows * count
    found = torch.zeros(150, device="cuda", dtype=torch.float64)
    found = found.index_add(0, bins, seen[order].double())
    usable = expected > 5
    statistic = ((found - expected)[usable].square() / expected[usable]).sum()
    assert statistic < chi_squared_limit(int(usable.sum()))


@pytest.mark.gpu
@pytest.mark.large
def test_a_graph_reads_new_parameters_at_each_replay():
    logits = 3 * torch.randn(6, 50257, device="cuda")
    parameters = make_parameters("cuda", 6)
    kernels.sample(logits, *parameters)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = kernels.sample(logits, *parameters)
    for settings in SETTINGS.values():
        for static, new in zip(parameters, make_parameters("cuda", 6, **settings), strict=True):
            static.copy_(new)
        parameters[-1].add_(3)
        graph.replay()
        assert torch.equal(tokens, module.sample_reference(logits, *parameters))


def test_refusals(device):
    logits = torch.zeros(2, 5, device=device)
    with pytest.raises(ValueError, match=r"one value for each row.*\(3,\)"):
        kernels.sample(logits, *make_parameters(device, 3))
    with pytest.raises(ValueError, match=r"\[rows, vocabulary\], got \(5,\)"):
        kernels.sample(logits[0], *make_parameters(device, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_penalties(dtype, device):
    S, V = 4, 2500
    logits = (3 * torch.randn(S, V + 9, device=device)).to(dtype)[:, :V]
    counts = torch.randint(0, 6, (S, V), dtype=torch.int32, device=device)
    repetition, presence, frequency = torch.tensor(
        [[1.0, 1.5, 0.7, 1.0], [0.0, 0.5, -0.5, 0.0], [0.0, 0.25, 1.0, -2.0]], device=device
    )
    expected = logits.double()
    for row in range(S):
        for token, count in enumerate(counts[row].tolist()):
            x = expected[row, token].item()
            if count:
                x = x / repetition[row].item() if x > 0 else x * repetition[row].item()
            x -= presence[row].item() * (count >= 2) + frequency[row].item() * (count // 2)
            expected[row, token] = x
    by_torch = logits.clone()
    kernels.penalize(logits, counts, repetition, presence, frequency)
    torch.testing.assert_close(logits, expected.to(dtype))
    with kernels.use_backend("torch"):
        kernels.penalize(by_torch, counts, repetition, presence, frequency)
    torch.testing.assert_close(by_torch, expected.to(dtype))
    with pytest.raises(ValueError, match=r"counts \[S, V\]"):
        kernels.penalize(logits, counts[:, 1:], repetition, presence, frequency)
