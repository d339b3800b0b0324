"""Faults made on purpose, and whether anything wrong comes of them."""
