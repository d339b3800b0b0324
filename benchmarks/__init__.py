"""Measurements; each is a command, to be run from the root of a clone."""
