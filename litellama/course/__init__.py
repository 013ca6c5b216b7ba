"""What the notebooks use: ``check`` and ``hint`` for the exercises, and figures and widgets.

Figures and widgets are imported from their own modules, so that this import stays light.
"""

from litellama.course.check import check, hint

__all__ = ["check", "hint"]
