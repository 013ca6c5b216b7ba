"""shapes-llava: a small LLaVA that we train ourselves, on pictures of drawn shapes.

``scenes`` draws them, ``questions`` asks about them, ``train`` teaches a vision tower and a
projector before SmolLM2, ``combine`` makes the folder that ``LLM`` opens, and ``evaluate`` measures
on scenes that were never seen, drawn by the same program and by another one.  Lesson 13 uses it.
"""
