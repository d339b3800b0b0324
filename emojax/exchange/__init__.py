"""Import and export: weights and challenge submissions.

Start with ``run_weights`` (safetensors), ``torch_weights`` (state dicts of public PyTorch code) or
``submission_writing``.

May import: prediction, rundir, core and everything below them.
"""
