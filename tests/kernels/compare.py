"""How kernel results are compared with a float64 reference."""

import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Relative error allowed, ||out - ref|| / ||ref||: a few roundings of the dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
# The error of one element, in tolerances of the largest element of its row: of many roundings some
# are large, but an element that is simply wrong is wrong by far more.
WORST = 8


def close(out: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Assert that ``out`` is the float64 ``reference`` up to the rounding of its dtype.

    Both as a whole, and in each element: one wrong element among a million is an error too.
    """
    assert out.shape == reference.shape
    assert reference.dtype == torch.float64
    if reference.numel() == 0:
        return
    assert reference.isfinite().all(), "a reference of NaN or inf can be compared with nothing"
    assert out.isfinite().all(), f"{int((~out.isfinite()).sum())} elements are not finite"
    allowed = TOLERANCE[dtype or out.dtype]
    errors = out.double() - reference
    error = errors.norm() / reference.norm().clamp_min(1e-30)
    assert error <= allowed, f"relative error {error:.2e}, allowed {allowed:.0e}"
    typical = reference.norm() / reference.numel() ** 0.5
    rows = reference.abs().reshape(-1, reference.shape[-1] if reference.ndim else 1)
    size = rows.amax(-1, keepdim=True).maximum(typical).clamp_min(1e-30)
    worst = (errors.reshape(rows.shape).abs() / size).max()
    assert worst <= WORST * allowed, f"an element is off by {worst:.2e} of the largest of its row"


def all_close(
    out: torch.Tensor | tuple[torch.Tensor, ...],
    reference: torch.Tensor | tuple[torch.Tensor, ...],
) -> None:
    """``close`` for kernels of one result and of several; where the reference is NaN, so is out."""
    outs = (out,) if isinstance(out, torch.Tensor) else out
    references = (reference,) if isinstance(reference, torch.Tensor) else reference
    for one, expected in zip(outs, references, strict=True):
        untouched = expected.isnan()
        assert torch.equal(one.isnan(), untouched)
        close(one.masked_fill(untouched, 0), expected.masked_fill(untouched, 0))
