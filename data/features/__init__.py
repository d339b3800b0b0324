"""Feature files that users bring: their forms on disk, their clocks, their rows."""
