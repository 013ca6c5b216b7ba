"""Proofs of lesson 09's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong


def merge_by_logsumexp(outs, log_sums):
    whole = log_sums.logsumexp(0)
    shares = (log_sums - whole).exp().nan_to_num(0.0)
    return torch.einsum("pr,prd->rd", shares, outs)


def merge_one_by_one(outs, log_sums):
    out, log_sum = outs[0], log_sums[0]
    for next_out, next_log_sum in zip(outs[1:], log_sums[1:], strict=True):
        both = torch.logaddexp(log_sum, next_log_sum)
        mine, theirs = ((x - both).exp().nan_to_num(0.0) for x in (log_sum, next_log_sum))
        out = mine[:, None] * out + theirs[:, None] * next_out
        log_sum = both
    return out


def range_by_division(num_keys, split, num_splits, block):
    edges = [divmod((num_keys + block - 1) // block * s, num_splits)[0] for s in range(split + 2)]
    stop = edges[split + 1] * block
    return edges[split] * block, stop if stop < num_keys else num_keys


def choose_by_list(programs, most, slots):
    def busy(n):
        rounds = (programs * n + slots - 1) // slots
        return programs * n / rounds / slots

    best = max(busy(n) for n in range(1, max(most, 1) + 1))
    n = 1
    while busy(n) < 0.9 * best:
        n += 1
    return n


def decode_parts_in_torch(q, k, v, splits):
    (Hq, D), (Hkv, Tk, _) = q.shape, k.shape
    groups = q.float().view(Hkv, Hq // Hkv, D)
    scores = (groups @ k.float().mT / D**0.5).view(Hq, Tk)
    outs, log_sums = [], []
    for split in range(splits):
        mine = slice(Tk * split // splits, Tk * (split + 1) // splits)
        weights = scores[:, mine].softmax(1).view(Hkv, Hq // Hkv, -1)
        outs.append((weights @ v[:, mine].float()).view(Hq, D))
        log_sums.append(scores[:, mine].logsumexp(1))
    return torch.stack(outs, 1).to(q.dtype), torch.stack(log_sums, 1).to(q.dtype)


_HIGHEST = 'torch.where(highest == -float("inf"), 0.0, highest)'
_RETURN = "return (shares[..., None] * outs).sum(0) / total[..., None]"
_STOP = "stop = num_blocks * (split + 1) // num_splits * block"
_NEXT = "return next(n for n, share in busy.items() if share >= 0.9 * max(busy.values()))"
_LOG_SUM = "maximum + tl.log(total)"

PROOFS = {
    "merge_parts": Proof(
        wrong=(
            wrong("mean", "plain mean", (_RETURN, "return outs.mean(0)")),
            wrong(
                "largest",
                "largest part only",
                ("torch.exp(log_sums", "(torch.sign(log_sums"),
                (f"{_HIGHEST})", f"{_HIGHEST}) + 1)"),
            ),
            wrong("naive", "maximum not subtracted", (f"log_sums - {_HIGHEST}", "log_sums")),
            wrong("no total", "not divided by the total", (" / total[..., None]", "")),
            wrong(
                "no exponential",
                "log-sums as shares",
                (f"torch.exp(log_sums - {_HIGHEST})", "log_sums"),
            ),
            wrong("NaN", "NaN without keys", (f"log_sums - {_HIGHEST}", "log_sums - highest")),
            wrong("two", "powers of two", ("torch.exp(", "torch.exp2(")),
        ),
        right=(merge_by_logsumexp, merge_one_by_one),
    ),
    "key_range": Proof(
        wrong=(
            wrong(
                "equal",
                "equal but the last",
                (
                    "first = num_blocks * split // num_splits * block",
                    "size = -(-num_blocks // num_splits) * block\n"
                    "    first = min(size * split, num_keys)",
                ),
                (_STOP, "stop = size * (split + 1)"),
            ),
            wrong(
                "rest",
                "rest to the last",
                (
                    "first = num_blocks * split // num_splits * block",
                    "size = num_blocks // num_splits * block\n    first = size * split",
                ),
                (_STOP, "stop = num_keys if split == num_splits - 1 else size * (split + 1)"),
            ),
            wrong(
                "keys",
                "keys not blocks",
                ("-(-num_keys // block)", "num_keys"),
                ("split // num_splits * block", "split // num_splits"),
                ("(split + 1) // num_splits * block", "(split + 1) // num_splits"),
            ),
            wrong("beyond", "beyond the end", ("min(stop, num_keys)", "stop")),
            wrong("lost", "last block lost", ("-(-num_keys // block)", "num_keys // block")),
            wrong(
                "blocks",
                "in blocks",
                ("split // num_splits * block", "split // num_splits"),
                ("(split + 1) // num_splits * block", "(split + 1) // num_splits"),
            ),
            wrong(
                "inclusive",
                "last key included",
                ("min(stop, num_keys)", "min(stop, num_keys) - 1"),
            ),
        ),
        right=(range_by_division,),
    ),
    "choose_splits": Proof(
        wrong=(
            wrong("busiest", "busiest at any price", ("0.9 * max", "max")),
            wrong("largest", "most parts", ("next(n for", "max(n for")),
            wrong(
                "floor",
                "rounds forgotten",
                ("busy[n] = count / (rounds * slots)", "busy[n] = min(count / slots, 1)"),
            ),
            wrong(
                "one round",
                "places over programs",
                (_NEXT, "return max(1, min(slots // programs, most))"),
            ),
            wrong("most", "always the most", (_NEXT, "return max(most, 1)")),
            wrong("never", "never cut", (_NEXT, "return 1")),
        ),
        right=(choose_by_list,),
    ),
    "decode_parts": Proof(
        wrong=(
            wrong(
                "no scale",
                "scale forgotten",
                ('input_precision="ieee") * scale', 'input_precision="ieee")'),
            ),
            wrong(
                "all",
                "every part sees all keys",
                (
                    "first, stop = Tk * split // num_splits, Tk * (split + 1) // num_splits",
                    "first, stop = 0 * split, Tk",
                ),
                ("triton.next_power_of_2(triton.cdiv(Tk, splits))", "triton.next_power_of_2(Tk)"),
            ),
            wrong(
                "to the end",
                "to the end",
                ("Tk * (split + 1) // num_splits", "Tk"),
                ("triton.next_power_of_2(triton.cdiv(Tk, splits))", "triton.next_power_of_2(Tk)"),
            ),
            wrong(
                "no total", "not divided by the total", ("weighted / total[:, None]", "weighted")
            ),
            wrong("no maximum", "maximum missing in the log-sum", (_LOG_SUM, "tl.log(total)")),
            wrong("no log", "logarithm forgotten", (_LOG_SUM, "maximum + total")),
            wrong(
                "base",
                "log of base two",
                (_LOG_SUM, "(maximum + tl.log(total)) * 1.4426950408889634"),
            ),
            wrong(
                "in turns",
                "heads taken in turns",
                ("kv_head * GROUP + rows", "rows * tl.num_programs(0) + kv_head"),
            ),
            wrong("keys again", "keys for values", ("v = tl.load(v_ptr", "v = tl.load(k_ptr")),
        ),
        right=(decode_parts_in_torch,),
    ),
}
