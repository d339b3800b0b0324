"""Builders that write stores. They run offline; nothing in emojax imports them.

Each file here is a command, except ``builder``, ``epic_features`` and ``exported_arrays``, which
serve several. ``annotations`` reads Aff-Wild2's labels, ``features`` reads feature files of any
tool, and ``simulation`` draws the simulated data. Start with ``meld``, the shortest builder.
"""
