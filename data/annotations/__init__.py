"""Aff-Wild2's annotation files: lines, clocks, partitions, and what does not fit together."""
