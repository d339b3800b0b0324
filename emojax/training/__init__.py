"""The training loop.

Start with ``loop`` (epochs, validation, checkpoints), then ``epoch`` (the steps of one epoch).
``feeds`` brings batches to the step, ``groups`` and ``memory_plan`` decide which replicas train
at the same time.

May import: prediction, rundir, core and everything below them, but neither scoring nor reporting.
"""
