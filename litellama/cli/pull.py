"""``litellama pull NAME``: fetch a model into the cache folder."""

from typing import Annotated

import typer

from litellama.cli.console import stdout


def pull(
    name: Annotated[
        str,
        typer.Argument(help="smollm2 (the default model), or OWNER/NAME on the Hugging Face hub."),
    ] = "smollm2",
) -> None:
    """Fetch a model into the cache folder, ready to load."""
    from litellama import checkpoints

    folder = checkpoints.pull(name)
    stdout().print(f"{name} is in {folder}", soft_wrap=True, markup=False)
