"""``litellama convert SRC DST``: make a converted folder of a checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from litellama.cli.console import stdout


def convert(
    src: Annotated[Path, typer.Argument(help="A Hugging Face folder or a .gguf file.")],
    dst: Annotated[Path, typer.Argument(help="The folder to make; it must not exist yet.")],
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Cast the weights; without it they keep theirs, GGUF becomes float32."),
    ] = None,
) -> None:
    """Turn a Hugging Face folder or a GGUF file into a folder of safetensors."""
    from litellama import checkpoints

    folder = checkpoints.convert(src, dst, dtype)
    stdout().print(f"converted {src} into {folder}", soft_wrap=True, markup=False)
