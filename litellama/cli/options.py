"""The options that several commands share, and the objects they describe."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from litellama.cli.console import notice

if TYPE_CHECKING:
    from litellama import LLM

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A name, a Hugging Face folder, or a .gguf file."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:N.")]
DType = Annotated[
    str,
    typer.Option(
        help="auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16, float16, or int8."
    ),
]
Temperature = Annotated[
    float, typer.Option(help="0 takes the likeliest token; higher is more varied.")
]
TopK = Annotated[int, typer.Option(help="Sample among the K likeliest tokens; 0: among all.")]
TopP = Annotated[float, typer.Option(help="Sample among the likeliest tokens of this total mass.")]
MinP = Annotated[
    float, typer.Option(help="Drop tokens below this fraction of the likeliest one's probability.")
]
RepetitionPenalty = Annotated[
    float, typer.Option(help="Above 1, tokens that were already used become less likely.")
]
MaxTokens = Annotated[int, typer.Option(help="The most tokens of one answer.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]

# What the makers of small instruction models recommend; a 135M model wanders at 1.0.
TEMPERATURE, TOP_P = 0.3, 0.9


def load(model: str, device: str, dtype: str) -> "LLM":
    """Load the model, and say so on stderr before and after: it can take seconds."""
    from litellama import LLM

    notice(f"Loading {model} …")
    start = time.perf_counter()
    llm = LLM(model, device=device, dtype=dtype)
    seconds = time.perf_counter() - start
    kind = str(llm.weight_dtype).removeprefix("torch.")
    notice(f"Ready in {seconds:.1f} s, on {llm.device}, in {kind}.")
    return llm
