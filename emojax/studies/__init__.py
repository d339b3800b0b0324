"""Studies of trained runs: missing modalities, streams, mechanisms, comparison of runs.

Start with ``missing_modality``. ``system_facts`` measures a model itself: parameters,
operations, receptive field.

May import: reporting, scoring, exchange, prediction and everything below them.
"""
