"""Stores of videos and the batches that are read from them."""
