"""What people look at after a run: the HTML page, pictures of single videos, CSV files.

Start with ``results_folder``, which writes the folder of an evaluation, and ``page``, which
builds the report of one run or several.

May import: scoring, prediction, rundir, core and everything below them.
"""
