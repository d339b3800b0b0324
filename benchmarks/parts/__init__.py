"""The parts of the benchmark: each a function from a ``Context`` to a ``Part``."""
