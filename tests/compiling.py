"""Compiling as users do, where a test is about rounding; conftest.py has it quick elsewhere."""

from __future__ import annotations

# For ``jax.jit(..., compiler_options=OPTIMISED)``: XLA's defaults.
OPTIMISED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}
