"""What a run keeps on disk: checkpoints, their checksums, metrics.csv, the lock of its folder.

Start with ``checkpoint``. ``resume`` decides whether a folder holds the run that is about to be
trained; ``workdir`` makes sure that only one training writes there.

May import: core and everything below it.
"""
