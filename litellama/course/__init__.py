"""What the notebooks use: ``check``, ``hint`` and ``progress`` for the exercises, and figures.

Figures and widgets are imported from their own modules, so that this import stays light.
"""

from litellama.course.check import check, hint
from litellama.course.overview import progress

__all__ = ["check", "hint", "progress"]
