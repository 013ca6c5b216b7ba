"""What a caller hands in: devices, dtypes, sizes and prompts, checked before any work is done."""

from collections.abc import Sequence
from numbers import Number
from typing import Any

import torch

from litellama.errors import RequestError
from litellama.images import check_images
from litellama.sampling import SamplingParams

Prompt = str | Sequence[int]

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise RequestError(f"unknown device {name!r}: use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"device {name!r} is not supported: use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"device {name!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPU(s): use device='cpu', or run `litellama doctor`"
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of the weights; "auto" is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if not isinstance(name, str) or name not in DTYPES:
        raise RequestError(f"unknown dtype {name!r}: use auto, {', '.join(DTYPES)}")
    if name == "int8" and device.type != "cpu":
        raise RequestError(f"dtype 'int8' is for a CPU, not for {device}: use bfloat16")
    return DTYPES[name]


def is_size(value: object) -> bool:
    """Whether a value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_sizes(**sizes: int | None) -> None:
    """Refuse sizes that are not positive integers, and block sizes that are no power of two."""
    for name, value in sizes.items():
        if value is not None and not is_size(value):
            raise RequestError(f"{name} must be a positive integer, got {value!r}")
    block_size = sizes.get("block_size") or 1
    if block_size & (block_size - 1):
        raise RequestError(f"block_size must be a power of two, got {block_size}")


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """A list of prompts, and whether there was one only; tensors and arrays count as lists."""
    if hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return [prompts], True
    if isinstance(prompts, bytes) or (len(prompts) and isinstance(prompts[0], Number)):
        return [prompts], True  # type: ignore[list-item]
    return list(prompts), False  # type: ignore[arg-type]


def as_ids(prompt: Any, tokenizer: Any) -> list[int]:
    """A prompt's token ids; a list, an array or a tensor of them is taken as it is."""
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if isinstance(prompt, bytes) or not isinstance(prompt, Sequence):
        raise RequestError(f"a prompt must be a string or a list of token ids, got {prompt!r}")
    if not isinstance(prompt, str):
        return [i.item() if hasattr(i, "item") else i for i in prompt]
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"the prompt is no text that can be written: {error}") from error
    return tokenizer.encode(prompt)


def check_params(params: SamplingParams | None) -> SamplingParams:
    """The settings of one request; those that nobody gave are the usual ones."""
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise RequestError(f"params must be SamplingParams, got {params!r}")
    return params


def spread(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int
) -> list[SamplingParams]:
    """One SamplingParams for each of ``count`` prompts."""
    if not isinstance(params, list | tuple):
        return [check_params(params)] * count  # type: ignore[arg-type]
    if len(params) != count:
        raise RequestError(
            f"got {count} prompts and {len(params)} SamplingParams: give one for each"
        )
    return [check_params(each) for each in params]


def spread_images(
    images: Sequence[Any] | None, count: int, single: bool
) -> Sequence[Sequence[Any] | None]:
    """The pictures of each of ``count`` prompts."""
    if images is None or single:
        return [images] * count
    if len(check_images(images)) != count:
        raise RequestError(
            f"got {count} prompts and {len(images)} lists of images: give one list for each"
        )
    return images


def check_token_ids(ids: list[Any], vocab_size: int, max_seq_len: int) -> None:
    """Refuse a prompt that is empty, too long for the context, or has ids out of range."""
    if not ids:
        raise RequestError("the prompt is empty: give at least one token")
    if len(ids) > max_seq_len:
        raise RequestError(
            f"the prompt has {len(ids)} tokens, more than the context of {max_seq_len}: shorten it"
        )
    for position, i in enumerate(ids):
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < vocab_size:
            raise RequestError(
                f"token id {i!r} at position {position} is not an integer from 0 to "
                f"{vocab_size - 1}, the vocabulary of this model"
            )
