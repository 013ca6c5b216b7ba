"""The chat demo of lesson 18: a conversation in a notebook, and what the engine does meanwhile."""

from litellama.course.chat.widget import Chat

__all__ = ["Chat"]
