"""The chat as a page of its own: ``python -m litellama.course.chat``, and any options of Voilà."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
# An extension of JupyterLab that does not fit into Voilà's page, and is there beside Notebook 7.
DENIED = "@jupyter-notebook/lab-extension"


def main(arguments: list[str]) -> None:
    """Serve ``page.ipynb`` through Voilà, with a template that asks for nothing remote."""
    from voila.app import Voila

    others = os.environ.get("JUPYTER_PATH")
    paths = [str(HERE / "share"), *([others] if others else [])]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(paths)
    options = ["--template=chat", f"--VoilaConfiguration.extension_denylist={DENIED}"]
    Voila.launch_instance([str(HERE / "page.ipynb"), *options, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
