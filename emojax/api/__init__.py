"""The Python API: the names of ``import emojax``, beside the commands.

Start with ``runs``: a trained run, and the functions that train or open one. ``videos`` turns plain
arrays into videos of a store, ``frames`` turns predictions and scores into tables of pandas.

May import: everything but studies, papers and the commands.
"""
