"""``python -m litellama.cli``, for a machine where the ``litellama`` script is not on the path."""

from litellama.cli import app

app(prog_name="litellama")
