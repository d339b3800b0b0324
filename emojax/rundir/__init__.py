"""The folder of a run: checkpoints, their checksums, metrics.csv, and the folder's lock.

Start with ``checkpoint``. ``resume`` checks that a folder holds the run that is to be trained.
``workdir`` ensures that only one training writes to a folder.

May import: core and everything below it.
"""
