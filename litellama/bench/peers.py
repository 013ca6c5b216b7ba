"""The two sides of a comparison: this package's engine, and transformers in two ways.

All of them have the same weights.  Those of a checkpoint are read by each side for itself; random
ones are made once, and transformers' model is laid over the very same tensors.

Prompts are random token ids.  Where the model reads pictures, each begins with the tokens of one,
and what it shows follows from the prompt's first word: so a prompt says all, and needs no picture
beside it.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from litellama.checkpoints.weights import is_ignored
from litellama.config import ModelConfig
from litellama.errors import RequestError
from litellama.llm import LLM
from litellama.models import presets
from litellama.sampling import SamplingParams

Prompts = list[list[int]]
EAGER, COMPILED = "transformers", "transformers, compiled"
AGAINST = {"eager": EAGER, "compiled": COMPILED}


def draw_prompt(words: int, config: ModelConfig, rng: random.Random) -> list[int]:
    """Random words, after the tokens of a picture where the model reads pictures."""
    shown = [] if config.vision is None else [config.vision.image_token_id]
    return shown * picture_tokens(config) + draw_words(words, config, rng)


def picture_tokens(config: ModelConfig) -> int:
    """How many tokens a picture takes; 0 where the model reads none."""
    return 0 if config.vision is None else config.vision.num_image_tokens


def draw_words(count: int, config: ModelConfig, rng: random.Random) -> list[int]:
    """Random token ids, none of them a picture's."""
    taken = -1 if config.vision is None else config.vision.image_token_id
    ids = (rng.randrange(config.vocab_size) for _ in range(count))
    return [i if i != taken else 0 for i in ids]


def pictures_of(prompts: Prompts, config: ModelConfig) -> list[np.ndarray]:
    """The picture of each prompt of ``draw_prompt``: noise, uint8 [S, S, 3]; none for no vision."""
    v = config.vision
    if v is None:
        return []
    shape = (v.image_size, v.image_size, 3)
    seeds = [prompt[v.num_image_tokens] for prompt in prompts]
    return [np.random.default_rng(s).integers(0, 256, shape, dtype=np.uint8) for s in seeds]


class Peer(Protocol):
    """One side of a comparison."""

    name: str

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        """Exactly ``new_tokens`` greedy token ids after each prompt."""

    def warm_up_tokens(self, new_tokens: int) -> int:
        """How many new tokens of an untimed call make calls of ``new_tokens`` as quick as ever."""


class Litellama:
    """This package's engine, through its front door."""

    name = "litellama"

    def __init__(self, llm: LLM) -> None:
        self.llm = llm

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        images = [[picture] for picture in pictures_of(prompts, self.llm.config)] or None
        return [list(output.token_ids) for output in self.llm.generate(prompts, params, images)]

    def warm_up_tokens(self, new_tokens: int) -> int:
        return new_tokens  # steps of a longer context may need graphs of their own


class Transformers:
    """transformers as it comes: eager mode, its default attention and its dynamic cache."""

    name = EAGER
    settings: dict[str, Any] = {}  # noqa: RUF012  # of its GenerationConfig

    def __init__(self, model: Any, llm: LLM) -> None:
        """llm: with the same weights; its way to prepare pictures serves both sides."""
        self.model, self.llm = model, llm

    def inputs(self, prompts: Prompts) -> dict[str, torch.Tensor]:
        """What the model is called with."""
        given = {"input_ids": torch.tensor(prompts, device=self.model.device)}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if self.llm.image_processor is not None:
            pictures = pictures_of(prompts, self.llm.config)
            pixels = torch.stack([self.llm.image_processor(picture) for picture in pictures])
            given["pixel_values"] = pixels.to(self.model.device, self.model.dtype)
        return given

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        from transformers import GenerationConfig

        # Nothing of the checkpoint's own generation settings: eos_token_id=None never stops.
        self.model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0,
            **self.settings,
        )  # fmt: skip
        with torch.inference_mode():
            out = self.model.generate(**self.inputs(prompts))
        return out[:, len(prompts[0]) :].tolist()

    def warm_up_tokens(self, new_tokens: int) -> int:
        return min(new_tokens, 8)  # every step is like the others

    def gap(self, ids: Sequence[int], a: int, b: int) -> float:
        """How far apart the logits of tokens ``a`` and ``b`` are after ``ids``."""
        with torch.inference_mode():
            logits = self.model(**self.inputs([list(ids)])).logits[0, -1]
        return abs(float(logits[a] - logits[b]))


class CompiledTransformers(Transformers):
    """transformers with its static cache: on a GPU ``generate`` then compiles the decode step."""

    name = COMPILED
    settings = {"cache_implementation": "static"}  # noqa: RUF012

    def warm_up_tokens(self, new_tokens: int) -> int:
        return new_tokens  # the cache has the length of the call, and is compiled in


def peers_of(llm: LLM, against: Sequence[str]) -> list[Transformers]:
    """The peers named in ``against`` ("eager", "compiled"), on one model with ``llm``'s weights."""
    for name in against:
        if name not in AGAINST:
            raise RequestError(f"no peer {name!r}: choose from {', '.join(AGAINST)}")
    if "compiled" in against and llm.device.type != "cuda":
        raise RequestError("transformers compiles only on a GPU: compare with 'eager'")
    if not against:
        return []
    model = transformers_model(llm)
    kinds = {"eager": Transformers, "compiled": CompiledTransformers}
    return [kinds[name](model, llm) for name in against]


def transformers_model(llm: LLM) -> Any:
    """transformers' model with ``llm``'s weights, in its dtype and on its device.

    Beside weights in int8 it has those that they were rounded from, in bfloat16.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    if llm.name.startswith(presets.PREFIX):
        return _over_the_same_tensors(llm)
    from litellama import checkpoints

    folder = str(checkpoints.resolve(llm.name))
    return _auto_class(llm).from_pretrained(folder, dtype=llm.dtype).to(llm.device).eval()


def _auto_class(llm: LLM) -> Any:
    """transformers' class that finds the model's class."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForCausalLM if llm.config.vision is None else AutoModelForImageTextToText


def _over_the_same_tensors(llm: LLM) -> Any:
    """transformers' model of a preset, whose parameters are rows of ``llm``'s: no copies."""
    if llm.weight_dtype == torch.int8:
        raise RequestError("random weights in int8 have no peer: compare a checkpoint, or none")
    from transformers import AutoConfig

    config = dict(presets.PRESETS[llm.name.removeprefix(presets.PREFIX)])
    family = config.pop("model_type")
    with llm.device:
        made = AutoConfig.for_model(family, **config)
        model: Any = _auto_class(llm).from_config(made, dtype=llm.dtype)
    theirs = {llm.model.checkpoint_name(name): p for name, p in model.named_parameters()}
    mine = dict(llm.model.named_parameters())
    for name, pieces in llm.model.checkpoint_layout().items():
        rows = mine[name].data.split([shape[0] for _, shape in pieces])
        for (piece, _), tensor in zip(pieces, rows, strict=True):
            theirs.pop(piece).data = tensor
    needless = llm.model.ignored_checkpoint_names()  # a tower's layers after its features
    own = sorted(name for name in theirs if not is_ignored(name, needless))
    if own:
        raise RequestError(f"{llm.name}: transformers has weights of its own: {own}")
    return model.eval()


class MemoryMeter:
    """Peak GPU memory of each peer, as if it were alone: the bytes of its tensors, in use at once.

    What a peer allocates while ``watch``ed and keeps is its own; to that comes what it allocates
    and frees again.  On a CPU nothing is counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.counts = device.type == "cuda"
        self.kept: dict[str, int] = {}
        self.peak: dict[str, int] = {}

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Count what is allocated inside the ``with`` block as that of ``name``."""
        if not self.counts:
            yield
            return
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield
        kept = self.kept.get(name, 0)
        growth = torch.cuda.max_memory_allocated() - before
        self.peak[name] = max(self.peak.get(name, 0), kept + growth)
        self.kept[name] = kept + torch.cuda.memory_allocated() - before

    def lend(self, name: str, count: int) -> None:
        """Count bytes that ``name`` uses and another allocated: shared weights."""
        if self.counts:
            self.kept[name] = self.kept.get(name, 0) + count
            self.peak[name] = self.peak.get(name, 0) + count
