"""Configurations, one file for each system; select one by ``--config=NAME:VARIANT``."""
