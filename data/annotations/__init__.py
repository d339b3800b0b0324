"""Aff-Wild2's annotation files: lines, clocks, partitions, and a report of mismatches.

``challenge_files`` reads labels, ``partitions`` chooses one partition per video, ``frame_clocks``
knows the times of frames, and ``mismatches`` compares lengths. Start with ``challenge_files``.
"""
