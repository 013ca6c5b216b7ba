"""Proofs of lesson 14's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.course.exercises.lesson_14 import chi_square_limit
from litellama.sampling import SamplingBatch, SamplingParams, distribution, penalize


def penalties_by_the_package(logits, prompt, answer, repetition, presence, frequency):
    params = SamplingParams(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency
    )
    batch = SamplingBatch(1, len(logits), logits.device)
    text = [*prompt.tolist(), *answer.tolist()]
    batch.fill([params], [0], [len(answer)], [text], [len(prompt)])
    out = logits[None].clone()
    penalize(out, batch)
    return out[0]


def penalties_token_by_token(logits, prompt, answer, repetition, presence, frequency):
    x = logits.clone()
    for token in {*prompt.tolist(), *answer.tolist()}:
        x[token] *= 1 / repetition if x[token] > 0 else repetition
    for token in set(answer.tolist()):
        x[token] -= presence + frequency * answer.tolist().count(token)
    return x


def chances_by_the_package(logits, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    batch = SamplingBatch(1, len(logits), logits.device)
    batch.fill([params], [0], [0], [[]], [0])
    return distribution(logits[None].clone(), batch)[0]


def threshold_in_torch(x, temperature, top_p):
    """Bisection of the numbers themselves; what it ends near is a logit."""
    weights = torch.softmax(x.double() / temperature, -1)
    low, high = x.double().amin(-1), x.double().amax(-1) + 1
    for _ in range(60):
        middle = (low + high) / 2
        enough = (weights * (x >= middle[:, None])).sum(-1) >= top_p
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low.float()


def settled_from_the_front(text, stops):
    """The first place from which the rest is, or could become, the beginning of a stop string."""
    for at in range(len(text)):
        rest = text[at:]
        if any(rest.startswith(stop) for stop in stops):
            return at
    for at in range(len(text)):
        if any(stop.startswith(text[at:]) for stop in stops):
            return at
    return len(text)


def judge_by_likelihood(sampler, logits, temperature, top_p):
    """The G statistic, 2 sum O log(O / E), in place of chi-square, with fewer and fuller bins."""
    params = SamplingParams(temperature=temperature, top_p=top_p)
    batch = SamplingBatch(1, len(logits), logits.device)
    batch.fill([params], [0], [0], [[]], [0])
    chances = distribution(logits[None].clone(), batch)[0].double()
    seeds = 10**6 + torch.arange(30_000, device=logits.device)
    counts = torch.bincount(sampler(logits, temperature, top_p, seeds), minlength=len(logits))
    if (counts > 0)[chances == 0].any():
        return 0
    expected = chances * len(seeds)
    bins = torch.where(expected < 20, len(logits), torch.arange(len(logits)).to(seeds.device))
    size = len(logits) + 1
    observed = torch.bincount(bins, counts.double(), size)
    expected = torch.bincount(bins, expected, size)
    used = expected > 0
    g = 2 * torch.special.xlogy(observed[used], observed[used] / expected[used]).sum()
    return int(g < chi_square_limit(max(int(used.sum()) - 1, 1)))


_REPEATED = "torch.where(logits > 0, logits / repetition, logits * repetition)"
_BEFORE = "share_before = ordered.cumsum(0) - ordered"
_P = "ordered[share_before >= top_p * ordered.sum()] = 0.0"
_OUT = "out[order] = ordered / ordered.sum()"
_HELD = "held = max(held, length)"
_VERDICT = "return int(statistic < chi_square_limit(len(counts) - 1))"

PROOFS = {
    "penalties": Proof(
        wrong=(
            wrong("sign", "negative logits divided", (_REPEATED, "logits / repetition")),
            wrong(
                "prompt counted",
                "prompt in presence and frequency",
                ("torch.bincount(answer,", "torch.bincount(torch.cat([prompt, answer]),"),
            ),
            wrong(
                "prompt forgotten",
                "repetition without the prompt",
                ("times + torch.bincount(prompt, minlength=len(logits)) > 0", "times > 0"),
            ),
            wrong("once", "frequency once", ("frequency * times\n", "frequency * (times > 0)\n")),
            wrong(
                "each time",
                "presence for each time",
                ("presence * (times > 0)", "presence * times"),
            ),
            wrong(
                "the wrong order",
                "repetition last",
                (
                    "    repeated =",
                    "    logits = logits - presence * (times > 0) - frequency * times\n"
                    "    repeated =",
                ),
                ("return x - presence * (times > 0) - frequency * times\n", "return x\n"),
            ),
        ),
        right=(penalties_by_the_package, penalties_token_by_token),
    ),
    "chances": Proof(
        wrong=(
            wrong(
                "off by one",
                "crossing token dropped",
                (_BEFORE, "share_before = ordered.cumsum(0)"),
                (_P, "ordered[share_before > top_p * ordered.sum() + 1e-6] = 0.0"),
            ),
            wrong(
                "temperature last",
                "cut before the temperature",
                ("torch.softmax(logits / temperature, -1)", "torch.softmax(logits, -1)"),
                (
                    _OUT,
                    f"ordered = ordered ** (1 / temperature)\n    {_OUT}",
                ),
            ),
            wrong("p of all", "top-p of everything", ("top_p * ordered.sum()", "top_p")),
            wrong(
                "a probability",
                "min-p absolute",
                ("ordered < min_p * ordered[0]", "ordered < min_p * ordered.sum()"),
            ),
            wrong("no sum", "not normalised", (_OUT, "out[order] = ordered")),
            wrong("sorted", "left in sorted order", (_OUT, "out[:] = ordered / ordered.sum()")),
            wrong(
                "multiplied",
                "temperature multiplied",
                ("logits / temperature", "logits * temperature"),
            ),
        ),
        right=(chances_by_the_package,),
    ),
    "top_p_threshold": Proof(
        wrong=(
            wrong("zeros", "masked lanes hold zero", ('other=-float("inf"))', "other=0.0)")),
            wrong("T = 1", "temperature forgotten", ("(x - maximum) / temperature", "x - maximum")),
            wrong("no sum", "whole not summed", ("top_p * tl.sum(weights, axis=0)", "top_p * 1.0")),
            wrong(
                "a count",
                "share of the tokens",
                ("tl.exp((x - maximum) / temperature)", "tl.where(columns < N, 1.0, 0.0)"),
            ),
            wrong(
                "one too high",
                "crossing token dropped",
                (
                    "tl.store(out_ptr + row, logit_of(low))",
                    "above = tl.min(tl.where(x > logit_of(low), x, float('inf')), axis=0)\n"
                    "    tl.store(out_ptr + row, tl.minimum(above, maximum))",
                ),
            ),
            wrong("one program", "partly written", ("[(M,)]", "[(1,)]")),
            wrong("high", "high for low", ("logit_of(low))", "logit_of(high))")),
            wrong(
                "greater", "greater for at least", ("x >= logit_of(middle)", "x > logit_of(middle)")
            ),
            wrong("no room", "high at the maximum", ("key_of(maximum) + 1", "key_of(maximum)")),
            wrong(
                "T times",
                "temperature multiplied",
                ("(x - maximum) / temperature", "(x - maximum) * temperature"),
            ),
        ),
        right=(threshold_in_torch,),
    ),
    "settled": Proof(
        wrong=(
            wrong("shown at once", "nothing held back", (_HELD, "pass")),
            wrong(
                "the first in the list",
                "first listed stop",
                ("return min(found)", "return found[0]"),
            ),
            wrong(
                "shown to its end",
                "stop string shown",
                ("text.find(stop) for", "text.find(stop) + len(stop) for"),
            ),
            wrong(
                "always late",
                "always held back",
                ("if text.endswith(stop[:length]):", "if length <= len(text):"),
            ),
            wrong(
                "the shortest",
                "shortest beginning held",
                (_HELD, "held = min(held or length, length)"),
            ),
            wrong("from behind", "last one found", ("text.find(stop)", "text.rfind(stop)")),
            wrong(
                "the ending",
                "only the ending looked at",
                ("    if found:\n        return min(found)\n", ""),
                ("range(1, len(stop))", "range(1, len(stop) + 1)"),
            ),
        ),
        right=(settled_from_the_front,),
    ),
    "judge_sampler": Proof(
        wrong=(
            wrong("never compares counts", "only what may be drawn", (_VERDICT, "return 1")),
            wrong("300 draws", "too few draws", ("n = 20_000", "n = 300")),
            wrong(
                "the mean as a limit",
                "too strict",
                ("chi_square_limit(len(counts) - 1)", "0.8 * (len(counts) - 1)"),
            ),
            wrong(
                "the whole softmax",
                "odds without the cut",
                (
                    "n * nucleus_chances(logits, temperature, top_p)",
                    "n * nucleus_chances(logits, temperature, 1.0)",
                ),
            ),
            wrong(
                "the other way",
                "verdict inverted",
                ("        return 0\n", "        return 1\n"),
                ("statistic < chi_square_limit", "statistic >= chi_square_limit"),
            ),
            wrong(
                "always content",
                "all accepted",
                ("        return 0\n", "        return 1\n"),
                (_VERDICT, "return 1"),
            ),
            wrong(
                "no support",
                "dropped tokens not looked at",
                ("    if counts[expected == 0].any():\n        return 0\n", ""),
            ),
        ),
        right=(judge_by_likelihood,),
    ),
}
