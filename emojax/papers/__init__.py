"""Trains and scores the papers' tables and curves, beside the published numbers.

Start with ``table_plan``, which turns a published table into trainings, then ``table_runs`` and
``table_results``. The published numbers themselves are in ``emojax.published``.

May import: studies, training, scoring, exchange and everything below them.
"""
