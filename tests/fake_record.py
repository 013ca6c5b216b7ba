"""A record of ``litellama bench kernels`` with every case and invented figures, for tests alone."""

from typing import Any

from litellama.bench import kernels


def kernel_record(**changes: Any) -> dict[str, Any]:
    """litellama at 80% of the limit in every case, the peers at 70%, 60%, and so on."""
    results = []
    for case in kernels.all_cases():
        for i, peer in enumerate(case.peers):
            share = 0.8 - 0.1 * i
            row = {
                "group": case.group, "kernel": case.kernel, "case": case.label,
                "shape": [[1]], "dtype": "bfloat16", "gpu": "Some GPU", "peer": peer.name,
                "median_us": 1.0, "repetitions_us": [1.0],
            }  # fmt: skip
            if case.flops:
                row |= {"flops": 10**9, "tflop_per_s": 700 * share, "fraction_of_matmul": share}
            else:
                row |= {"bytes": 10**9, "gb_per_s": 3000 * share, "fraction_of_copy": share}
            results.append(row)
    head = {"command": "litellama bench kernels", "date": "today", "gpu": "Some GPU"}
    head |= {"versions": {"torch": "2", "triton": "3"}, "failed": [], "absent": []}
    limits = {"copy_bytes_per_s": 3e12, "matmul_flop_per_s": 700e12}
    return head | limits | {"results": results} | changes
