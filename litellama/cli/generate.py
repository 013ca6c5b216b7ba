"""``litellama generate --prompt "…"``: one prompt, one text, for people and for pipes."""

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from litellama.cli import options
from litellama.cli.console import fail

if TYPE_CHECKING:
    from litellama import LLM, SamplingParams


def generate(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text; - reads it from stdin.")],
    model: options.Model = "smollm2",
    device: options.Device = "auto",
    dtype: options.DType = "auto",
    chat: Annotated[
        bool, typer.Option("--chat", help="Put it in the model's chat template.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    temperature: options.Temperature = options.TEMPERATURE,
    top_k: options.TopK = 0,
    top_p: options.TopP = options.TOP_P,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    max_tokens: options.MaxTokens = 128,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text (repeat for several).")
    ] = None,
    seed: options.Seed = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on past the end-of-text token.")
    ] = False,
) -> None:
    """Write the continuation of a prompt to stdout as it comes."""
    from litellama import SamplingParams

    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, max_tokens=max_tokens, stop=tuple(stop or ()),
        seed=seed, ignore_eos=ignore_eos,
    )  # fmt: skip
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        fail("the prompt is empty: give --prompt TEXT, or --prompt - and text on stdin")
    llm = options.load(model, device, dtype)
    ids = llm.chat_prompt([{"role": "user", "content": text}]) if chat else text
    if as_json:
        print(json.dumps(_record(llm, ids, params), ensure_ascii=False))
        return
    for piece in llm.stream(ids, params):
        print(piece, end="", flush=True)
    print()


def _record(llm: "LLM", prompt: str | list[int], params: "SamplingParams") -> dict[str, Any]:
    """Generate, and say everything about it: text, ids, finish reason, seconds."""
    start = time.perf_counter()
    output = llm.generate([prompt], params)[0]
    return {
        "text": output.text,
        "finish_reason": output.finish_reason,
        "prompt_token_ids": output.prompt_token_ids,
        "token_ids": output.token_ids,
        "seconds": round(time.perf_counter() - start, 4),
    }
