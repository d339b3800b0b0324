"""The self-contained HTML report of runs."""
