"""Configurations: one file a system. ``--config=NAME:VARIANT``."""
