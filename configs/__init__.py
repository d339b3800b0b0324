"""Configurations: one file a system. ``--config=configs/NAME.py:VARIANT``."""
