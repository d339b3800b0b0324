"""Aff-Wild2's annotation files: lines, clocks, partitions, and a report of mismatches."""
