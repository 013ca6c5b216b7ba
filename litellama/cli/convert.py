"""``litellama convert SRC DST``: make a converted folder of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from litellama.cli.console import stdout


def convert(
    src: Annotated[Path, typer.Argument(help="A Hugging Face folder or a .gguf file.")],
    dst: Annotated[Path, typer.Argument(help="The folder to make; it must not exist yet.")],
) -> None:
    """Turn a Hugging Face folder or a GGUF file into a folder of safetensors."""
    from litellama import checkpoints

    folder = checkpoints.convert(src, dst)
    stdout().print(f"converted {src} into {folder}", soft_wrap=True, markup=False)
