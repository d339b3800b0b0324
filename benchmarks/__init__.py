"""Measurements, each one command; run them from the root of a clone."""
