"""The engine: block manager, scheduler, runner, and the loop that drives them."""

from litellama.engine.loop import Engine

__all__ = ["Engine"]
