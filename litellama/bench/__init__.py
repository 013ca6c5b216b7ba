"""Measurements that anyone can repeat: of the engine, of how it serves many, of each kernel.

``engine`` compares with transformers, ``serving`` measures a queue and a shared prefix, ``kernels``
compares with torch and other libraries.  Nothing is timed at import.  Each ``run`` returns a plain
dictionary, ready for JSON, that says the machine, the versions, the command and every repetition
beside the medians.  Lesson 17 uses them.
"""
