"""The package's kernels give way to the reader's inside the block, and only there."""

import pytest
import torch

from litellama import kernels
from litellama.course.swap import using


def test_the_readers_function_is_called_and_counted():
    package = kernels.mul
    x = torch.ones(3)
    with using(mul=lambda a, b: a - b) as calls:
        assert kernels.mul(x, x).tolist() == [0, 0, 0]
        assert kernels.mul(x, b=x).tolist() == [0, 0, 0]
    assert calls["mul"] == 2
    assert kernels.mul is package


def test_a_fused_kernel_is_taken_apart_for_one_of_its_parts():
    """Also where it would be one launch, as here in the interpreter."""
    q, table = torch.randn(2, 3, 8), torch.ones(2, 4)
    place = (torch.zeros(1, 4, 3, 8), torch.zeros(1, 4, 3, 8), torch.arange(2))
    with kernels.use_backend("triton"):
        with using(rope=kernels.rope) as calls:
            kernels.rope_write_kv(q, q, q, table, table, *place)
        assert calls == {"rope": 1}
        with using(swiglu=kernels.swiglu), using(rope_write_kv=kernels.rope_write_kv) as calls:
            kernels.rope_write_kv(q, q, q, table, table, *place)
        assert calls == {"rope_write_kv": 1}


def test_the_package_comes_back_after_an_error():
    package = kernels.softmax
    with pytest.raises(ZeroDivisionError), using(softmax=lambda x: 1 / 0):
        kernels.softmax(torch.ones(3))
    assert kernels.softmax is package


def test_a_name_that_is_no_kernel_is_refused():
    with pytest.raises(ValueError, match="has no soft_max"), using(soft_max=print):
        pass
