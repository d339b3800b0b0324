"""From windows to one value per frame.

Start with ``predictor``, which predicts the videos of a fold with all replicas at once and
averages overlapping windows. ``trained_run`` opens a checkpoint and predicts with it alone.

May import: rundir, core and everything below them.
"""
