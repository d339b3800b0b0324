"""Predicts windows, and averages them to one value per frame.

Start with ``predictor``, which predicts the videos of a fold with all replicas at once and
averages overlapping windows. ``trained_run`` opens a run from its checkpoint alone and predicts.

May import: rundir, core and everything below them.
"""
