"""Measurements that anyone can repeat: ``engine`` against transformers, ``kernels`` against torch.

Nothing is timed at import.  Each module's ``run`` returns a plain dictionary, ready for JSON, that
says the machine, the versions, the command and every repetition beside the medians.
"""
