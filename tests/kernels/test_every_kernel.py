"""What holds for every kernel, whatever it computes: tests over the table in cases.py."""

import random

import pytest
import torch

from litellama import kernels
from tests.kernels.cases import KERNELS, Inputs, Kernel
from tests.kernels.compare import DTYPES, all_close
from tests.kernels.layouts import LAYOUTS

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_kernel = pytest.mark.parametrize("name", KERNELS)

CACHES = {"k_cache", "v_cache"}
TABLES = {"query_starts", "seq_lens", "block_table"}
# With one tensor there is no other device for it to be on.
OF_ONE_TENSOR = {"softmax", "swiglu"}


def tensors(kernel: Kernel, device: str, dtype: torch.dtype = torch.float32) -> Inputs:
    return kernel.make(device, dtype, **kernel.small)


def can_be_laid_out(name: str, argument: str, value: object, layout: str) -> bool:
    """Whether the layout keeps the argument valid."""
    if "write_kv" in name and argument.endswith("_cache"):
        return False  # written in place, and here it is a copy that is
    if layout == "expanded":  # would put all tokens in one slot, or all sequences in one block
        return value.is_floating_point() and not argument.endswith("_cache") and len(value) > 0
    return True


ARGUMENTS = [
    (name, argument, value)
    for name, kernel in KERNELS.items()
    for argument, value in tensors(kernel, "cpu").items()
    if isinstance(value, torch.Tensor)
]


def parameters(*cases: tuple[str, ...]) -> pytest.MarkDecorator:
    names = ("name", "argument", "layout")[: len(cases[0])]
    return pytest.mark.parametrize(names, cases, ids=["-".join(case) for case in cases])


def check(kernel: Kernel, inputs: Inputs) -> None:
    all_close(kernel.run(**inputs), kernel.reference(**inputs))


def test_the_table_holds_every_kernel():
    sampling = {"penalize", "sample"}  # have no reference in float64: test_sample.py
    public = set(kernels.__all__) - {"AttentionBatch", "use_backend"} - sampling
    assert public == KERNELS.keys()


@every_kernel
@dtypes
def test_small(name, dtype, device):
    check(KERNELS[name], tensors(KERNELS[name], device, dtype))


@every_kernel
def test_the_torch_version_says_the_same(name, device):
    """What runs in a kernel's place where there is no GPU."""
    kernel = KERNELS[name]
    with kernels.use_backend("torch"):
        check(kernel, kernel.make(device, torch.float32, **kernel.small))


@every_kernel
@pytest.mark.gpu
def test_the_gpu_of_the_tensors_is_used(name):
    """Whichever GPU is the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    check(KERNELS[name], tensors(KERNELS[name], "cuda:1"))
    torch.cuda.synchronize("cuda:1")
    assert torch.cuda.current_device() == 0


@every_kernel
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
def test_torch_s_default_dtype_changes_nothing(name, default, device):
    """What a kernel keeps for itself is float32, also in a program that computes in another."""
    kernel = KERNELS[name]
    inputs = tensors(kernel, device)
    expected = kernel.run(**inputs)
    torch.set_default_dtype(default)
    try:
        got = kernel.run(**inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(got, expected, atol=0, rtol=0, equal_nan=True)


@parameters(
    *(
        (name, argument, layout)
        for name, argument, value in ARGUMENTS
        for layout in LAYOUTS
        if can_be_laid_out(name, argument, value, layout)
    )
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layout_is_handled_or_refused(name, argument, layout, dtype, device):
    """An argument in a layout that the kernel's authors may not have thought of."""
    inputs = tensors(KERNELS[name], device, dtype)
    usual = inputs[argument]
    inputs[argument] = strange = LAYOUTS[layout](usual)
    refused = strange.stride() != usual.stride() if argument in CACHES else strange.stride(-1) != 1
    if argument in CACHES | TABLES and refused:
        with pytest.raises(ValueError, match="strides"):
            KERNELS[name].run(**inputs)
    else:
        check(KERNELS[name], inputs)


@parameters(*((name, argument) for name, argument, _ in ARGUMENTS if name not in OF_ONE_TENSOR))
def test_another_device_is_refused(name, argument, device):
    inputs = tensors(KERNELS[name], device)
    inputs[argument] = inputs[argument].to("meta" if device == "cpu" else "cpu")
    with pytest.raises(ValueError, match=r"device|CPU tensor"):
        KERNELS[name].run(**inputs)


@parameters(*((name, argument) for name, argument, x in ARGUMENTS if x.is_floating_point()))
@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64], ids=str)
def test_a_dtype_that_would_be_rounded_is_refused(name, argument, dtype, device):
    inputs = tensors(KERNELS[name], device)
    inputs[argument] = torch.ones_like(inputs[argument], dtype=dtype)
    with pytest.raises(ValueError, match=str(dtype)):
        KERNELS[name].run(**inputs)


@every_kernel
@dtypes
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.gpu
def test_random_sweep(name, dtype, seed):
    """Random sizes, all inputs among NaN, and in every fifth case in random layouts.

    (Not in more, because the compiler starts anew for strides that are no multiples of 16.)
    """
    rng = random.Random(f"{name} {dtype} {seed}")
    torch.manual_seed(seed)
    kernel = KERNELS[name]
    with kernels.use_backend("triton"):
        for case in range(kernel.cases):
            sizes = kernel.choose(rng)
            inputs = kernel.make("cuda", dtype, **sizes)
            chosen = {}
            for argument, value in inputs.items():
                if not isinstance(value, torch.Tensor):
                    continue
                layout = "guarded"
                if case % 5 == 0 and argument not in CACHES | TABLES:
                    layout = rng.choice(list(LAYOUTS))
                if can_be_laid_out(name, argument, value, layout):
                    inputs[argument] = LAYOUTS[layout](value)
                    chosen[argument] = layout
            try:
                check(kernel, inputs)
            except AssertionError as error:
                raise AssertionError(f"{name} of {sizes} {dtype}, {chosen}: {error}") from error


@every_kernel
@dtypes
@pytest.mark.gpu
@pytest.mark.sanitize
def test_small_under_the_memory_checker(name, dtype):
    """For tools/sanitize.py: one launch of each kernel, on tensors with nothing around them."""
    torch.manual_seed(0)
    with kernels.use_backend("triton"):
        check(KERNELS[name], tensors(KERNELS[name], "cuda", dtype))
