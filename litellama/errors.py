"""Errors a user can cause, each a ``ValueError`` that says what was wrong and what to do.

One is nobody's fault: ``EngineError``.
"""


class ConfigError(ValueError):
    """A ``config.json`` that is missing, malformed, or asks for something that is not supported."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete, corrupted, or does not fit its config."""


class RequestError(ValueError):
    """A prompt or a parameter that cannot be served."""


class ConversationError(ValueError):
    """Something that a chat cannot do now, or a file that is no conversation."""


class ExerciseError(ValueError):
    """An exercise that does not exist, or one that was handed something other than a function."""


class EngineError(RuntimeError):
    """A step that failed while it computed a request; the cause is the error that it failed with.

    The engine is usable after it.
    """
