"""The parts of the benchmark; each is a function from a ``Context`` to a ``Part``."""
