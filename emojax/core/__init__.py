"""The parts of a run: configuration, replicas, parameters, optimiser, train step, devices.

Start with ``session``, which turns a configuration into these parts, then read ``step``, whose
``forward`` and ``train_step`` are the one way from a batch to a loss and a gradient.
Everything here leads with the replica axis R. Nothing here reads or writes a run's folder.

May import: specs, types, errors, ops, layers, models, datasets.
"""
