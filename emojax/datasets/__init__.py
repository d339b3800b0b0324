"""Stores of videos and the batches that are read from them.

A store is written by ``store`` (videos are ``record``s, checked by ``store_checks``) and read by
``source``. ``window_spec`` says what a window holds, ``ticks`` puts rows and labels on its clock,
``pipeline`` streams batches of windows from disk, and ``resident`` gathers the same batches on the
device. ``folds`` splits videos. Imports only the vocabulary and ``ops``. Start with ``record``.
"""
