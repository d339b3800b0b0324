"""Runs a command by its verb: ``python -m emojax VERB``, the same as ``emojax VERB``."""

from emojax.commands.verbs import main

if __name__ == "__main__":
    main()
