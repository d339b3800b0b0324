"""Results to look at: the HTML report, pictures of single videos, CSV files.

Start with ``results_folder``, which writes the folder of an evaluation, and ``page``, which
writes the report of one run or of several.

May import: scoring, prediction, rundir, core and everything below them.
"""
