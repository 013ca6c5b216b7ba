"""Proofs of lesson 11's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong


def parameters_by_shape(hidden, inner, layers, heads, kv_heads, head_dim, vocab, tied):
    q, kv = heads * head_dim, kv_heads * head_dim
    shapes = [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q)]
    shapes += [(inner, hidden), (inner, hidden), (hidden, inner), (hidden, 1), (hidden, 1)]
    layer = sum(rows * columns for rows, columns in shapes)
    return layer, layer * layers + hidden * (1 + vocab * (2 - bool(tied)))


def rotate_by_complex_numbers(x, query_starts, seq_lens, frequencies):
    starts = torch.tensor(query_starts, device=x.device)
    lengths = torch.tensor(seq_lens, device=x.device)
    ends = (lengths - starts[1:]).repeat_interleave(starts.diff())
    angles = (torch.arange(len(x), device=x.device) + ends)[:, None, None] * frequencies
    first, second = x.unflatten(-1, (2, -1)).unbind(-2)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def layer_by_matrix(hidden, residual, norm_1, norm_2, attn, mlp):
    T, H = hidden.shape
    ones = torch.ones(T, T, device=hidden.device).tril()
    mean = ones / ones.sum(1, keepdim=True)
    stream = hidden if residual is None else residual + hidden
    normed = torch.nn.functional.rms_norm(stream, (H,), norm_1, 1e-5)
    stream = stream + mean @ normed @ attn.mT
    out = torch.nn.functional.rms_norm(stream, (H,), norm_2, 1e-5) @ mlp.mT
    return out * out.sigmoid(), stream


def qkv_by_slices(q, k, v, rank, ranks):
    parts = []
    for matrix in (q, k, v):
        rows = matrix.shape[0] // ranks
        parts.append(matrix[rank * rows : (rank + 1) * rows])
    return torch.cat(parts, dim=0)


def fault_by_argmax(mine, theirs, tolerance):
    difference = (mine - theirs).double().square().sum((1, 2)).sqrt()
    bad = difference > tolerance * theirs.double().square().sum((1, 2)).sqrt()
    return int(bad.int().argmax()) if bool(bad.any()) else -1


_RANGE = "range(length - new, length)"
_TENSOR = "torch.tensor(positions, device=x.device)"
_FIRST = "kernels.skip_rms_norm(hidden, residual, norm_1, EPS)"
_SECOND = "kernels.skip_rms_norm(hidden, residual, norm_2, EPS)"
_RETURN = "return F.silu(normed @ mlp.T), residual"
_ATTEND = "hidden = running_mean(normed) @ attn.T"
_CUT = "torch.cat([matrix.chunk(ranks)[rank] for matrix in (q, k, v)])"
_ERRORS = "(mine - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)"

PROOFS = {
    "count_parameters": Proof(
        wrong=(
            wrong(
                "wide keys",
                "keys and values as wide as queries",
                ("kv_heads * head_dim", "heads * head_dim"),
            ),
            wrong(
                "no output",
                "output linear forgotten",
                ("attention = 2 * q", "attention = q"),
            ),
            wrong(
                "square",
                "square query matrices",
                ("2 * q * hidden", "2 * hidden * hidden"),
            ),
            wrong("two matrices", "two matrices in the feed-forward", ("3 * inner", "2 * inner")),
            wrong(
                "no norms",
                "norms forgotten",
                (" + 2 * hidden\n", "\n"),
                ("layers * layer + hidden +", "layers * layer +"),
            ),
            wrong("one norm", "one norm a layer", (" + 2 * hidden\n", " + hidden\n")),
            wrong(
                "no last norm",
                "last norm forgotten",
                ("layers * layer + hidden +", "layers * layer +"),
            ),
            wrong("always two", "head counted though tied", ("if not tied", "if True")),
            wrong("never two", "head never counted", ("if not tied", "if False")),
            wrong("exchanged", "tied the wrong way round", ("if not tied", "if tied")),
        ),
        right=(parameters_by_shape,),
    ),
    "rotate_packed": Proof(
        wrong=(
            wrong(
                "arange",
                "positions run on over the step",
                (_TENSOR, "torch.arange(len(x), device=x.device)"),
            ),
            wrong("from 0", "every step begins at 0", (_RANGE, "range(new)")),
            wrong("far", "one too far", (_RANGE, "range(length - new + 1, length + 1)")),
            wrong("near", "one too near", (_RANGE, "range(length - new - 1, length - 1)")),
            wrong("last", "all at the end", (_RANGE, "[length - 1] * new")),
            wrong(
                "end to end",
                "texts laid end to end",
                (_RANGE, "range(sum(seq_lens[: s + 1]) - new, sum(seq_lens[: s + 1]))"),
            ),
            wrong("backwards", "backwards", (_RANGE, f"reversed({_RANGE})")),
            wrong("not turned", "not turned", ("return turned", "return x.clone()")),
            wrong("a pair", "wrong number of results", ("turned, _ =", "turned =")),
        ),
        right=(rotate_by_complex_numbers,),
    ),
    "layer_step": Proof(
        wrong=(
            wrong(
                "no first norm",
                "first norm missing",
                (_ATTEND, "hidden = running_mean(residual) @ attn.T"),
            ),
            wrong(
                "no second norm",
                "second norm missing",
                (_RETURN, "return F.silu(residual @ mlp.T), residual"),
            ),
            wrong(
                "exchanged",
                "norms exchanged",
                ("norm_1, norm_2, attn, mlp)", "norm_2, norm_1, attn, mlp)"),
            ),
            wrong(
                "only hidden",
                "residual ignored",
                (_FIRST, "kernels.rms_norm(hidden, norm_1, EPS), hidden"),
            ),
            wrong(
                "replaced",
                "stream without what was before",
                (_SECOND, "kernels.rms_norm(hidden, norm_2, EPS), hidden"),
            ),
            wrong(
                "normed stream",
                "normed stream carried on",
                (_SECOND, "kernels.skip_rms_norm(hidden, normed, norm_2, EPS)"),
            ),
            wrong(
                "added",
                "added already",
                (_RETURN, "return residual + F.silu(normed @ mlp.T), residual"),
            ),
            wrong(
                "residual late",
                "residual after the add",
                (_RETURN, "out = F.silu(normed @ mlp.T)\n    return out, residual + out"),
            ),
            wrong(
                "beside",
                "feed-forward beside attention",
                (_ATTEND, f"{_ATTEND}\n    early = kernels.rms_norm(residual, norm_2, EPS)"),
                (_RETURN, "return F.silu(early @ mlp.T), residual"),
            ),
            wrong(
                "swapped", "results exchanged", (_RETURN, "return residual, F.silu(normed @ mlp.T)")
            ),
        ),
        right=(layer_by_matrix,),
    ),
    "qkv_of_rank": Proof(
        wrong=(
            wrong(
                "stacked first",
                "a block of the whole",
                (_CUT, "torch.cat([q, k, v]).chunk(ranks)[rank]"),
            ),
            wrong("strided", "every n-th row", (".chunk(ranks)[rank]", "[rank::ranks]")),
            wrong(
                "first keys",
                "keys of the first GPU",
                (_CUT, "torch.cat([q.chunk(ranks)[rank], *(x.chunk(ranks)[0] for x in (k, v))])"),
            ),
            wrong("q v k", "keys and values exchanged", ("(q, k, v)])", "(q, v, k)])")),
            wrong("k q v", "keys first", ("(q, k, v)])", "(k, q, v)])")),
            wrong(
                "whole keys",
                "wrong shape",
                (_CUT, "torch.cat([q.chunk(ranks)[rank], k, v])"),
            ),
            wrong("columns", "wrong shape", ("chunk(ranks)", "chunk(ranks, dim=1)")),
        ),
        right=(qkv_by_slices,),
    ),
    "find_fault": Proof(
        wrong=(
            wrong(
                "absolute",
                "absolute error",
                (_ERRORS, "(mine - theirs).abs().amax((1, 2))"),
            ),
            wrong(
                "each number",
                "each number by itself",
                (_ERRORS, "((mine - theirs) / theirs).abs().amax((1, 2))"),
            ),
            wrong(
                "last",
                "last difference",
                ("return place\n    return -1", "last = place\n    return last"),
                ("    for place", "    last = -1\n    for place"),
            ),
            wrong(
                "largest",
                "largest difference",
                ("return place", "return int(errors.argmax())"),
            ),
            wrong("before", "last place that agrees", ("return place", "return place - 1")),
            wrong(
                "mean",
                "signs cancel",
                ("(mine - theirs).flatten(1).norm(dim=1)", "(mine - theirs).mean((1, 2)).abs()"),
            ),
            wrong(
                "lengths",
                "lengths compared",
                (
                    "(mine - theirs).flatten(1).norm(dim=1)",
                    "(mine.flatten(1).norm(dim=1) - theirs.flatten(1).norm(dim=1)).abs()",
                ),
            ),
            wrong(
                "one token",
                "first token only",
                (_ERRORS, "(mine - theirs)[:, 0].norm(dim=1) / theirs[:, 0].norm(dim=1)"),
            ),
            wrong("zero", "0 where all agree", ("return -1", "return 0")),
            wrong("a tensor", "wrong type", ("return place", "return torch.tensor(place)")),
        ),
        right=(fault_by_argmax,),
    ),
}
