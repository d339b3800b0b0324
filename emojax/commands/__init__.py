"""What all commands share: flags, exit codes, the summary line, joining other processes.

Start with ``cli``. The commands themselves are the files of the folder above, one each.
"""
