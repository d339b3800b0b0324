"""Injects faults on purpose, and checks that they do no harm."""
