"""How kernel results are compared with a float64 reference."""

import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Relative error allowed, ||out - ref|| / ||ref||: a few roundings of the dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def close(out: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Assert that ``out`` is the float64 ``reference`` up to the rounding of its dtype."""
    assert out.shape == reference.shape
    assert reference.dtype == torch.float64
    if reference.numel() == 0:
        return
    assert out.isfinite().all() or not reference.isfinite().all()
    error = (out.double() - reference).norm() / reference.norm().clamp_min(1e-30)
    allowed = TOLERANCE[dtype or out.dtype]
    assert error <= allowed, f"relative error {error:.2e}, allowed {allowed:.0e}"
