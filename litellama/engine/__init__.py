"""The engine: block manager, scheduler, runner with its CUDA graphs, and the loop over them."""

from litellama.engine.block_manager import BlockManager
from litellama.engine.loop import Engine
from litellama.engine.runner import Runner
from litellama.engine.scheduler import Scheduler

__all__ = ["BlockManager", "Engine", "Runner", "Scheduler"]
