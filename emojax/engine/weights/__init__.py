"""Weights in and out, in other frameworks' forms."""
