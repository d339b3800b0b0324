"""What leaves emojax and what comes in: weights and challenge submissions.

Start with ``run_weights`` (safetensors out and in), ``torch_weights`` (state dicts of public
PyTorch code) or ``submission_writing``.

May import: prediction, rundir, core and everything below them.
"""
