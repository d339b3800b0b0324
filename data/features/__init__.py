"""Feature files that users bring: their forms on disk, their clocks, their rows.

``feature_sources`` opens one stream per ``--features`` flag. ``forms`` reads the files of each
form into ``rows``, and ``row_clocks`` puts rows on time. Start with ``feature_sources``.
"""
