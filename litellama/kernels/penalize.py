"""Make tokens of the text so far less likely, or more: three penalties on the logits, in place.

With c_i how often token i was generated: the repetition penalty r divides positive logits, and
multiplies negative ones, of the tokens that stand in the prompt or the answer; then the presence
penalty takes a from the logit of each token with c_i > 0, and the frequency penalty takes b c_i.

Shapes: ``logits`` [S, V]; ``counts`` [S, V] int32, 2 c_i + 1 for a token of the prompt, else 2 c_i;
one value of each penalty a row.  Bytes: logits read and written, counts read, 12 V a row in
float32; a row without penalties is left alone.  A table of counts, and not the list of tokens,
because then a token that occurs twice is no special case, and a step of decoding adds to one
element a row.
Sources: Keskar et al., "CTRL", 2019, arXiv:1909.05858 (repetition); OpenAI's API reference
(presence and frequency).  Lesson 14 uses this file.
"""

import torch

from litellama.kernels.backend import launch, require, tl, triton, uses_triton


def penalize_reference(
    logits: torch.Tensor,
    counts: torch.Tensor,
    repetition: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
) -> None:
    """What the kernel must do, in plain torch."""
    repetition, presence, frequency = (p[:, None] for p in (repetition, presence, frequency))
    generated = counts >> 1
    x = logits.float()
    repeated = torch.where(x > 0, x / repetition, x * repetition)
    x = torch.where(counts > 0, repeated, x)
    logits.copy_(x - presence * (generated > 0) - frequency * generated)


@triton.jit
def penalize_kernel(
    logits_ptr, counts_ptr, repetition_ptr, presence_ptr, frequency_ptr,
    logits_stride, counts_stride, V, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    repetition = tl.load(repetition_ptr + row)
    presence, frequency = tl.load(presence_ptr + row), tl.load(frequency_ptr + row)
    if (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0):
        tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = tokens < V
        logits_ptrs = logits_ptr + row * logits_stride + tokens
        x = tl.load(logits_ptrs, mask=inside, other=0.0).to(tl.float32)
        counts = tl.load(counts_ptr + row * counts_stride + tokens, mask=inside, other=0)
        generated = (counts >> 1).to(tl.float32)
        repeated = tl.where(x > 0.0, x / repetition, x * repetition)
        x = tl.where(counts > 0, repeated, x)
        x -= presence * (generated > 0.0).to(tl.float32) + frequency * generated
        tl.store(logits_ptrs, x, mask=inside)


def penalize(
    logits: torch.Tensor,
    counts: torch.Tensor,
    repetition: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
) -> None:
    """Apply the penalties to ``logits`` [S, V] in place.

    counts: int32 [S, V].  repetition, presence, frequency: float32 [S]; 1, 0 and 0 do nothing.
    """
    penalties = (repetition, presence, frequency)
    require(
        logits.ndim == 2
        and counts.shape == logits.shape
        and all(p.shape == logits.shape[:1] and p.is_contiguous() for p in penalties),
        lambda: (
            "penalize needs logits and counts [S, V] and three contiguous penalties [S], got "
            f"{tuple(logits.shape)}, {tuple(counts.shape)}, {[tuple(p.shape) for p in penalties]}"
        ),
    )
    require(
        logits.stride(-1) == 1 and counts.stride(-1) == 1,
        lambda: "penalize needs rows of neighbouring elements",
    )
    if not uses_triton(logits):
        penalize_reference(logits, counts, *penalties)
        return
    (S, V), BLOCK = logits.shape, 2048
    launch(
        penalize_kernel, (triton.cdiv(V, BLOCK), S), logits, counts, *penalties,
        logits.stride(0), counts.stride(0), V, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
