"""Strict settings for every test: 8 simulated devices, no silent broadcasting."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadline: the first example compiles. In CI the examples are the same in every run, so that
# a red run means a change, not luck; at the desk they differ and find more over time.
hypothesis.settings.register_profile(
    "emojax", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.load_profile("emojax")
