"""Scores of predictions: folds, cross-validation, post-processing, the ridge baseline.

Start with ``evaluation``, which scores the folds of a run by the protocol of the challenge.

May import: prediction, rundir, core and everything below them.
"""
