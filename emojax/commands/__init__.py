"""The shared parts of all commands: flags, exit codes, summary line, joining other processes.

Start with ``cli``. The commands themselves are the files of the folder above, one each.
"""
