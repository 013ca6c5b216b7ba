"""Proofs of lesson 04's exercises: slips in the solutions, and other right answers."""

import math

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


def tables_by_logarithm(positions, head_dim, base):
    pairs = torch.arange(head_dim // 2, device=positions.device)
    frequencies = torch.exp(pairs * (-2 * math.log(base) / head_dim))
    spin = torch.polar(torch.ones_like(frequencies), torch.outer(positions, frequencies))
    return spin.real, spin.imag


@triton.jit
def _rotate_head(
    x_ptr, y_ptr, cos_ptr, sin_ptr, st, sh, H, D: tl.constexpr, HALF: tl.constexpr, B: tl.constexpr
):
    """One program for each head, over all D lanes: x cos + (swapped and signed x) sin."""
    t, h, i = tl.program_id(0), tl.program_id(1), tl.arange(0, B)
    x_row = x_ptr + t * st + h * sh
    x = tl.load(x_row + i, mask=i < D, other=0.0).to(tl.float32)
    partner = tl.where(i < HALF, i + HALF, i - HALF)
    other = tl.load(x_row + partner, mask=i < D, other=0.0).to(tl.float32)
    pair = t * HALF + tl.where(i < HALF, i, i - HALF)
    cos = tl.load(cos_ptr + pair, mask=i < D)
    sin = tl.load(sin_ptr + pair, mask=i < D)
    sign = tl.where(i < HALF, -1.0, 1.0)
    tl.store(y_ptr + (t * H + h) * D + i, x * cos + sign * other * sin, mask=i < D)


def rope_by_head(q, k, cos, sin):
    def rotate(x):
        T, H, D = x.shape
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _rotate_head[(T, H)](
            x, out, cos, sin, x.stride(0), x.stride(1), H, D=D, HALF=D // 2,
            B=triton.next_power_of_2(D),
        )  # fmt: skip
        return out

    return rotate(q), rotate(k)


def rope_complex(q, k, cos, sin):
    spin = torch.complex(cos, sin)[:, None]

    def rotate(x):
        turned = torch.complex(*x.float().contiguous().chunk(2, dim=-1)) * spin
        return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)

    return rotate(q), rotate(k)


def interleaved_complex(x, cos, sin):
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.complex(cos, sin)[:, None])
    return turned.flatten(-2).to(x.dtype)


def sorted_by_index(weight, heads):
    D = weight.shape[0] // heads
    order = [h * D + i for h in range(heads) for i in [*range(0, D, 2), *range(1, D, 2)]]
    return weight[order]


def frequencies_by_wavelength(frequencies, factor, low, high, original_context):
    """In three cases, as Meta's and Hugging Face's code has it."""
    wavelength = 2 * math.pi / frequencies
    smooth = (original_context / wavelength - low) / (high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    out = torch.where(wavelength > original_context / low, frequencies / factor, blended)
    return torch.where(wavelength < original_context / high, frequencies, out)


_FIRST = "first * cos - second * sin"
_SECOND = "second * cos + first * sin"
_TURNS = "original_context * frequencies / (2 * math.pi)"

PROOFS = {
    "rope_tables": Proof(
        wrong=(
            wrong("i / D", "exponent halved", ("-pairs / head_dim", "-pairs / 2 / head_dim")),
            wrong("over D / 2", "exponent doubled", ("-pairs / head_dim", "-pairs * 2 / head_dim")),
            wrong("growing", "exponent positive", ("(-pairs", "(pairs")),
            wrong(
                "degrees",
                "degrees",
                ("angles.cos(), angles.sin()", "angles.deg2rad().cos(), angles.deg2rad().sin()"),
            ),
            wrong("2 pi", "full turns", ("* frequencies", "* frequencies * 2 * math.pi")),
            wrong(
                "from one",
                "position counted from one",
                ("positions[:, None]", "(1 + positions[:, None])"),
            ),
            wrong(
                "row numbers",
                "the place in the list for the position",
                (
                    "positions[:, None]",
                    "torch.arange(len(positions), device=positions.device)[:, None]",
                ),
            ),
            wrong(
                "sin first",
                "results exchanged",
                ("angles.cos(), angles.sin()", "angles.sin(), angles.cos()"),
            ),
            wrong(
                "repeated halves",
                "wrong shape",
                (
                    "    return angles",
                    "    angles = torch.cat([angles, angles], dim=-1)\n    return angles",
                ),
            ),
        ),
        right=(tables_by_logarithm,),
    ),
    "rope": Proof(
        wrong=(
            wrong(
                "backwards",
                "turned backwards",
                (_FIRST, "first * cos + second * sin"),
                (_SECOND, "second * cos - first * sin"),
            ),
            wrong("minus twice", "two minus signs", (_SECOND, "second * cos - first * sin")),
            wrong("plus twice", "two plus signs", (_FIRST, "first * cos + second * sin")),
            wrong(
                "overwritten",
                "first used after it was changed",
                (
                    f"    tl.store(out_rows + pairs, {_FIRST}, mask=inside)",
                    f"    first = {_FIRST}\n    tl.store(out_rows + pairs, first, mask=inside)",
                ),
            ),
            wrong(
                "exchanged",
                "cos and sin exchanged",
                (_FIRST, "first * sin - second * cos"),
                (_SECOND, "second * sin + first * cos"),
            ),
            wrong(
                "neighbours",
                "neighbours paired",
                ("tl.load(x_rows + pairs,", "tl.load(x_rows + 2 * pairs,"),
                ("tl.load(x_rows + HALF + pairs,", "tl.load(x_rows + 2 * pairs + 1,"),
                ("tl.store(out_rows + pairs,", "tl.store(out_rows + 2 * pairs,"),
                ("tl.store(out_rows + HALF + pairs,", "tl.store(out_rows + 2 * pairs + 1,"),
            ),
            wrong(
                "keys copied", "keys not turned", ("return q_out, k_out", "return q_out, k.clone()")
            ),
            wrong(
                "first token",
                "every token turned as the first",
                ("cos_ptr + token * cos_stride", "cos_ptr + 0 * cos_stride"),
                ("sin_ptr + token * sin_stride", "sin_ptr + 0 * sin_stride"),
            ),
            wrong(
                "heads not masked",
                "load out of bounds",
                (
                    "inside = (heads < H) & (pairs < HALF)",
                    "inside = (heads < BLOCK_H) & (pairs < HALF)",
                ),
            ),
            wrong(
                "second half forgotten",
                "partly written",
                (f"    tl.store(out_rows + HALF + pairs, {_SECOND}, mask=inside)", ""),
            ),
            wrong(
                "dense strides",
                "strides ignored",
                ("x_ptr + token * token_stride", "x_ptr + token * H * head_stride"),
            ),
        ),
        right=(rope_by_head, rope_complex),
    ),
    "rope_interleaved": Proof(
        wrong=(
            wrong(
                "halves",
                "halves paired",
                ("tl.load(x_row + 2 * pairs,", "tl.load(x_row + pairs,"),
                ("tl.load(x_row + 2 * pairs + 1,", "tl.load(x_row + HALF + pairs,"),
                ("tl.store(out_row + 2 * pairs,", "tl.store(out_row + pairs,"),
                ("tl.store(out_row + 2 * pairs + 1,", "tl.store(out_row + HALF + pairs,"),
            ),
            wrong(
                "written in halves",
                "read in pairs, written in halves",
                ("tl.store(out_row + 2 * pairs,", "tl.store(out_row + pairs,"),
                ("tl.store(out_row + 2 * pairs + 1,", "tl.store(out_row + HALF + pairs,"),
            ),
            wrong(
                "backwards",
                "turned backwards",
                (_FIRST, "first * cos + second * sin"),
                (_SECOND, "second * cos - first * sin"),
            ),
            wrong("minus twice", "two minus signs", (_SECOND, "second * cos - first * sin")),
            wrong(
                "first token",
                "every token turned as the first",
                ("cos_ptr + token * HALF", "cos_ptr"),
                ("sin_ptr + token * HALF", "sin_ptr"),
            ),
            wrong(
                "no sine", "sine terms missing", (_FIRST, "first * cos"), (_SECOND, "second * cos")
            ),
            wrong(
                "stride of the output",
                "strides ignored",
                ("x_ptr + token * x_token_stride", "x_ptr + token * H * x_head_stride"),
            ),
            wrong(
                "one store",
                "partly written",
                (f"    tl.store(out_row + 2 * pairs + 1, {_SECOND}, mask=inside)", ""),
            ),
        ),
        right=(interleaved_complex,),
    ),
    "split_halves": Proof(
        wrong=(
            wrong(
                "way back",
                "the way back",
                (
                    "weight.view(heads, rows // heads // 2, 2, hidden)",
                    "weight.view(heads, 2, rows // heads // 2, hidden)",
                ),
            ),
            wrong(
                "one head",
                "heads not kept apart",
                (
                    "weight.view(heads, rows // heads // 2, 2, hidden)",
                    "weight.view(1, rows // 2, 2, hidden)",
                ),
            ),
            wrong(
                "odd rows first",
                "halves exchanged",
                ("pairs.transpose(1, 2)", "pairs.flip(2).transpose(1, 2)"),
            ),
            wrong("not transposed", "left as it was", ("pairs.transpose(1, 2)", "pairs")),
            wrong(
                "columns",
                "columns sorted",
                (
                    "    return pairs.transpose(1, 2).reshape(rows, hidden)",
                    "    return torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)",
                ),
            ),
            wrong(
                "heads last",
                "heads innermost",
                (
                    "weight.view(heads, rows // heads // 2, 2, hidden)",
                    "weight.view(rows // heads // 2, 2, heads, hidden)",
                ),
                ("transpose(1, 2)", "transpose(0, 1)"),
            ),
        ),
        right=(sorted_by_index,),
    ),
    "llama3_frequencies": Proof(
        wrong=(
            wrong(
                "fast stretched",
                "fast and slow exchanged",
                (
                    "kept * frequencies + (1 - kept) * frequencies / factor",
                    "kept * frequencies / factor + (1 - kept) * frequencies",
                ),
            ),
            wrong("no clamp", "blend not limited", (".clamp(0, 1)", "")),
            wrong(
                "cut at low",
                "no blend, cut at low",
                ("((turns - low) / (high - low)).clamp(0, 1)", "(turns >= low).float()"),
            ),
            wrong(
                "cut at high",
                "no blend, cut at high",
                ("((turns - low) / (high - low)).clamp(0, 1)", "(turns >= high).float()"),
            ),
            wrong("radians", "2 pi missing", (_TURNS, "original_context * frequencies")),
            wrong(
                "linear",
                "all stretched",
                (
                    "return kept * frequencies + (1 - kept) * frequencies / factor",
                    "return frequencies / factor",
                ),
            ),
            wrong(
                "multiplied",
                "multiplied by the factor",
                ("frequencies / factor", "frequencies * factor"),
            ),
            wrong(
                "by wavelength",
                "blended by wavelength",
                (
                    "((turns - low) / (high - low)).clamp(0, 1)",
                    "((1 / low - 1 / turns) / (1 / low - 1 / high)).clamp(0, 1)",
                ),
            ),
            wrong("half turns", "pi for 2 pi", ("/ (2 * math.pi)", "/ math.pi")),
            wrong(
                "divisors",
                "divisor blended",
                (
                    "return kept * frequencies + (1 - kept) * frequencies / factor",
                    "return frequencies / (kept + (1 - kept) * factor)",
                ),
            ),
            wrong(
                "upside down",
                "all kept",
                (_TURNS, "original_context / frequencies"),
            ),
        ),
        right=(frequencies_by_wavelength,),
    ),
}
