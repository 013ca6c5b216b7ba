"""LLM, the front door: a checkpoint in, text out.  Lesson 00 uses this file."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from litellama.arguments import (
    Prompt,
    as_ids,
    as_prompts,
    check_params,
    check_sizes,
    check_token_ids,
    pick_device,
    pick_dtype,
    spread,
    spread_images,
)
from litellama.chat import Message, render_chat
from litellama.checkpoints import resolve
from litellama.engine import BlockManager, Engine, Runner, Scheduler
from litellama.engine.memory import Memory, cache_bytes, check_fits, step_bytes, weight_bytes
from litellama.engine.pictures import Picture
from litellama.engine.request import FinishReason, Request
from litellama.errors import EngineError, RequestError
from litellama.images import ImageProcessor, check_images
from litellama.loading import load_model, load_tokenizer
from litellama.models import decoder_of, presets, read_config
from litellama.models.int8 import quantise
from litellama.sampling import SamplingParams

# Tokens computed in one step, prompts and decodes together: enough to keep the arithmetic busy, and
# few enough that a long prompt does not hold up running streams for long.
MAX_STEP_TOKENS = {"cuda": 2048, "cpu": 512}
# On a GPU attention takes 64 keys at a time: in one block, they are one look into the block table.
BLOCK_SIZE = {"cuda": 64, "cpu": 16}


@dataclass(frozen=True)
class RequestOutput:
    """One finished answer.

    text: ends before the end-of-text token or the stop string.  token_ids: every generated token,
    the end-of-text token included.  finish_reason: "stop" (end of text or a stop string), "length"
    (max_tokens or the context), or "aborted".  num_cached_tokens: tokens of the prompt whose keys
    and values were found in the cache; two outputs are equal whatever was found.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: FinishReason
    num_cached_tokens: int = field(default=0, compare=False)


class LLM:
    """A language model ready to generate.

    model: a name ("smollm2"), a Hugging Face folder, or a .gguf file; or "random:" and the name of
    a preset ("random:llama-3.2-1b"), for its shape with random weights (``models.presets``).
    device: "auto" is the GPU where there is one; or "cpu", "cuda", "cuda:1".
    dtype: "auto" is bfloat16 on a GPU and float32 on a CPU; or "float32", "float16", "bfloat16"; or
    "int8" on a CPU: bfloat16, with the decoder's weights rounded to 8 bits (``models.int8``).
    max_num_seqs: the most requests that advance in one step.
    max_step_tokens: the most tokens in one step; longer prompts are computed in chunks, and fewer
    tokens mean a smoother stream beside them.  Default 2048 on a GPU, 512 on a CPU.
    block_size: tokens in one block of the KV cache, a power of two.  Default 64 on a GPU, 16 on a
    CPU.
    max_seq_len: the longest prompt and answer together (a prompt of just that length still gets one
    token); default the model's context.
    kv_cache_tokens: the size of the cache pool; default from the free memory.
    prefix_caching: whether a prompt starts from cached blocks that hold its first tokens.
    trace_steps: how many steps ``engine.scheduler.trace`` keeps, for drawing.

    Raises ConfigError, CheckpointError or RequestError, all ValueErrors.
    A step that fails raises EngineError where its answers are awaited; other requests go on.
    ``memory`` says how many bytes of the device it takes (``engine.memory`` has the formula);
    ``image_processor`` is None unless the model reads pictures.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_num_seqs: int = 16,
        max_step_tokens: int | None = None,
        block_size: int | None = None,
        max_seq_len: int | None = None,
        kv_cache_tokens: int | None = None,
        prefix_caching: bool = True,
        trace_steps: int = 0,
    ) -> None:
        self.device = pick_device(device)
        block_size = BLOCK_SIZE[self.device.type] if block_size is None else block_size
        check_sizes(
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_step_tokens=max_step_tokens,
            max_seq_len=max_seq_len,
            kv_cache_tokens=kv_cache_tokens,
            trace_steps=trace_steps or None,
        )
        if not isinstance(prefix_caching, bool):
            raise RequestError(f"prefix_caching must be True or False, got {prefix_caching!r}")
        self.weight_dtype = pick_dtype(dtype, self.device)
        self.dtype = torch.bfloat16 if self.weight_dtype == torch.int8 else self.weight_dtype
        self.name = str(model)
        self._load(self.name)
        if self.weight_dtype == torch.int8:
            quantise(decoder_of(self.model))
        self.max_seq_len = min(max_seq_len or self.config.context, self.config.context)
        # The scheduler, too, has room in each step for a token of every sequence.
        step_tokens = max(max_step_tokens or MAX_STEP_TOKENS[self.device.type], max_num_seqs)
        num_blocks = self._plan_memory(max_num_seqs, step_tokens, block_size, kv_cache_tokens)
        # One request alone must fit the pool: then waiting is all that a full pool can cause.
        self.max_seq_len = min(self.max_seq_len, num_blocks * block_size)
        manager = BlockManager(num_blocks, block_size, prefix_caching)
        decoder = decoder_of(self.model)
        encode = getattr(self.model, "image_features", None)
        self._runner = Runner(
            decoder,
            manager,
            max_num_seqs=max_num_seqs,
            max_seq_len=self.max_seq_len,
            encode=encode,
        )
        self.engine = Engine(
            self._runner,
            Scheduler(manager, max_num_seqs, step_tokens, trace_steps),
            self.tokenizer,
            eos_token_ids=self.config.eos_token_ids,
            max_seq_len=self.max_seq_len,
        )

    def _load(self, name: str) -> None:
        """The config, the tokenizer and the model, from a checkpoint or of a preset."""
        self.image_processor: ImageProcessor | None = None
        if name.startswith(presets.PREFIX):
            self.config, self.tokenizer = presets.preset_config(name), presets.NumberTokenizer()
            self.model = presets.random_model(self.config, self.device, self.dtype)
            if self.config.vision is not None:
                side = self.config.vision.image_size
                self.image_processor = ImageProcessor(self.config.vision, side)
            return
        folder = resolve(name)
        self.config, self.tokenizer = read_config(folder), load_tokenizer(folder)
        if self.config.vision is not None:
            self.image_processor = ImageProcessor.from_folder(folder, self.config.vision)
        self.model = load_model(self.config, folder, self.device, self.dtype)

    def _plan_memory(
        self, max_num_seqs: int, step_tokens: int, block_size: int, kv_cache_tokens: int | None
    ) -> int:
        """How many blocks the KV cache gets: as asked for, or what fits and can be used."""
        step = step_bytes(self.config, step_tokens, max_num_seqs, self.dtype.itemsize)
        per_token = self.config.kv_bytes_per_token(self.dtype.itemsize)
        tokens = kv_cache_tokens
        if tokens is None:
            fits = cache_bytes(self.device, step) // per_token
            tokens = min(max_num_seqs * self.max_seq_len, fits)
        num_blocks = max(tokens // block_size, 1)
        cache = num_blocks * block_size * per_token
        self.memory = Memory(weight_bytes(self.model), cache, step)
        # A pool that nobody asked for takes memory on a CPU only as it is used.
        asked = 0 if kv_cache_tokens is None else cache
        check_fits(self.device, replace(self.memory, cache=asked))
        return num_blocks

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        images: Sequence[Any] | None = None,
    ) -> list[RequestOutput]:
        """Complete one prompt or many, together; outputs in the order of the prompts.

        A prompt is a string or a list of token ids.  params: one for all, or one for each.
        images: for one prompt the list of its pictures, for many a list of such lists.  A picture
        is a path, the bytes of a file, a Pillow image or a uint8 array; "<image>" in the prompt (or
        the image token's id) says where it belongs.
        """
        many, single = as_prompts(prompts)
        each = spread(params, len(many))
        shown = spread_images(images, len(many), single)
        made = [self._encode(prompt, some) for prompt, some in zip(many, shown, strict=True)]
        requests: list[Request] = []
        try:
            for one, its_params in zip(made, each, strict=True):
                requests.append(self._submit(*one, its_params))
            while any(r.finish_reason is None for r in requests):
                self.engine.step()
        finally:  # also on Ctrl-C: nothing goes on in the background
            for request in requests:
                self.engine.abort(request)
                self.engine.take(request)
        return [output_of(request) for request in requests]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        images: Sequence[Any] | None = None,
    ) -> Generator[str, None, RequestOutput]:
        """Complete one prompt, piece by piece; the pieces join to exactly generate's text.

        Prompt and params are checked at once, and the prompt is queued at the first ``next``;
        closing the generator aborts it.  The generator's return value (of ``yield from``) is
        generate's output.
        """
        return self._pieces(*self._encode(prompt, images), check_params(params))

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        images: Sequence[Any] | None = None,
    ) -> Request:
        """Queue one prompt and return at once; ``follow`` gives its text as it comes.

        Until then it is only looked at: its blocks, how much of it was found in the cache.
        """
        return self._submit(*self._encode(prompt, images), check_params(params))

    def follow(self, request: Request) -> Generator[str, None, RequestOutput]:
        """The pieces of a submitted request, as ``stream`` gives them; closing it aborts."""
        try:
            while True:
                ended = request.finish_reason is not None  # asked first: no piece can follow it
                piece = self.engine.take(request)
                if piece:
                    yield piece
                elif ended:
                    return output_of(request)
                else:
                    self.engine.step()
        finally:
            self.engine.abort(request)

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        images: Sequence[Any] | None = None,
        **template_arguments: Any,
    ) -> RequestOutput:
        """The assistant's next message, by the checkpoint's chat template.

        messages: dictionaries with "role" ("system", "user", "assistant") and "content".
        images: the pictures of the whole conversation, in order; "<image>" in a message says where
        each belongs, and without it they go before the user's last message.
        template_arguments: for the template, such as ``enable_thinking=False`` of Qwen3.
        """
        ids = self.chat_prompt(messages, len(check_images(images)), **template_arguments)
        return self.generate(ids, params, images)[0]

    def chat_prompt(
        self, messages: Sequence[Message], num_images: int = 0, **template_arguments: Any
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's next message.

        Each picture takes as many image tokens as it has features.
        """
        if not self.tokenizer.chat_template:
            raise RequestError(
                f"{self.name} has no chat template: it is a base model; use generate instead"
            )
        vision, marker = self.config.vision, None
        if vision is not None:
            marker = self.tokenizer.convert_ids_to_tokens(vision.image_token_id)
        text = render_chat(self.tokenizer, messages, template_arguments, marker, num_images)
        # The template writes its own special tokens; LLaVA's leaves the first one to the tokenizer.
        begun = vision is None or text.startswith(self.tokenizer.bos_token or "")
        ids = self.tokenizer.encode(text, add_special_tokens=not begun)
        return self.image_processor.expand(ids) if self.image_processor is not None else ids

    def logits(
        self,
        token_ids: Sequence[int],
        images: Sequence[Any] | None = None,
        last: int | None = None,
    ) -> torch.Tensor:
        """float32 [tokens, vocab] on the CPU: row i holds the scores of what follows token i.

        last: only the rows of so many tokens at the end; all rows of a long text are large.
        """
        check_sizes(last=last)
        return self._runner.all_logits(*self._encode(token_ids, images), last)

    def _encode(
        self, prompt: Prompt, images: Sequence[Any] | None = None
    ) -> tuple[list[int], list[Picture]]:
        """Token ids of a prompt, and its pictures.

        RequestError unless they fit the vocabulary, the context and each other.
        """
        ids = as_ids(prompt, self.tokenizer)
        shown = check_images(images)
        if self.image_processor is None:
            if shown:
                raise RequestError(
                    f"this model ({self.config.architecture}) reads text only, got {len(shown)} "
                    "image(s): leave images out"
                )
            check_token_ids(ids, self.config.vocab_size, self.max_seq_len)
            return ids, []
        ids = self.image_processor.place(ids, len(shown))
        check_token_ids(ids, self.config.vocab_size, self.max_seq_len)
        return ids, self.image_processor.pictures(ids, shown)

    def _submit(self, ids: list[int], pictures: list[Picture], params: SamplingParams) -> Request:
        seed = params.seed
        if seed is None:
            seed = int(torch.randint(2**63 - 1, ()))
        return self.engine.submit(ids, params, seed, pictures)

    def _pieces(
        self, ids: list[int], pictures: list[Picture], params: SamplingParams
    ) -> Generator[str, None, RequestOutput]:
        return (yield from self.follow(self._submit(ids, pictures, params)))


def output_of(request: Request) -> RequestOutput:
    """What the caller sees of a request; EngineError if a step failed with it."""
    if request.error is not None:
        raise EngineError(f"the step of this request failed: {request.error!r}") from request.error
    return RequestOutput(
        text=request.detokenizer.text,
        token_ids=request.output_token_ids,
        prompt_token_ids=request.prompt_token_ids,
        finish_reason=request.finish_reason or "aborted",
        num_cached_tokens=request.num_cached or 0,
    )
