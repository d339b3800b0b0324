"""The training loop.

Start with ``Trainer.run`` in ``loop``: restore or initialise, then for each epoch the steps of each
group of replicas, validation, schedule and checkpoint. The step is ``train_step`` in
``core/step.py``. ``feeds`` brings batches to it, ``epoch`` keeps the position and the metrics,
``groups`` and ``memory_plan`` decide which replicas train at the same time.

May import: prediction, rundir, core and everything below them, but neither scoring nor reporting.
"""
