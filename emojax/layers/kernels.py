"""The way in which each backend computes a layer, and the measurements behind the choice.

Every way gives the same results up to rounding. ``make bench`` measures them on the machine it
runs on; a row without numbers was chosen by reasoning, and its comment says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import jax

# Networks of several kernel sizes over one input, see ``layers.multi_kernel``: "apart", one after
# the other, or "together", as one of the largest size with zero taps. CPU milliseconds, both cores'
# added up, on a busy machine, for kernels 3, 5 and 7 (21 taps instead of 15), batch (12, 300),
# forward / backward (gradients of the kernels, and of three inputs but not of the one):
#                                             apart    together
#     512 -> 256, one input, dilation 1    154 / 149   195 / 189
#     128 -> 128, one input, dilation 1     19 / 21     24 / 26
#     256 -> 256, three inputs, dilation 2  86 / 190   131 / 489   (as matrix products 192 / 334)
#     128 -> 128, three inputs, dilation 4  26 / 47     34 / 134   (as matrix products  65 / 109)
# GPU and TPU are not measured. There one convolution of this size takes less time than its start,
# so a third as many should win, at least for few replicas.
MULTI_KERNEL_TCN: Mapping[str, str] = {"cpu": "apart", "gpu": "together", "tpu": "together"}

# Convolution over time, see ``layers.convolution``. Milliseconds of one CPU for 5 taps, batch
# (12, 300), forward / forward and backward:
#                                  convolution  one_product
#     512 -> 512, dilation 2          93 / 280     135 / 353
#     256 -> 256, dilation 4          24 /  72      34 / 105
#     128 -> 128, dilation 4         6.2 /  19     8.0 /  23
#     512 -> 512, two replicas       228 / 660     292 / 740
#     256 -> 256, two replicas        58 / 182      95 / 217
# One product for each tap, summed, took 0.95 to 1.5 times the convolution's time.
# That is 100 GFLOP/s where a dense product reaches 93, and 86 with replicas (a grouped
# convolution; one after the other 92). GPU and TPU are not measured. One model's convolution has
# its tuned kernels there, but grouped ones, which replicas make of it, are known to be slow on
# GPUs, so that one batched product of five times the rows was chosen.
TEMPORAL_CONVOLUTION: Mapping[str, str] = {
    "cpu": "convolution",
    "gpu": "one_product",
    "tpu": "convolution",
}


# The backend that programs are traced for. JAX keeps the value by thread and makes it part of the
# keys of its caches, so that a program of one backend is never taken for that of another.
_COMPILED_FOR = jax.make_user_context(default_value=None)


def compiled_for(backend: str) -> AbstractContextManager[None]:
    """Returns a context in which programs are traced for this backend instead of the one at hand.

    It serves to lower a program on one machine for another::

        with kernels.compiled_for("tpu"):
            exported = jax.export.export(jax.jit(step), platforms=["tpu"])(*arguments)

    Args:
        backend: "cpu", "gpu" or "tpu", as ``jax.default_backend`` would say there.
    """
    if backend not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"no backend {backend!r}: cpu, gpu or tpu")
    return _COMPILED_FOR(backend)


def chosen(ways: Mapping[str, str]) -> str:
    """Returns the entry of the backend that programs are compiled for; "gpu" for an unknown one."""
    return ways.get(_COMPILED_FOR.value or jax.default_backend(), ways["gpu"])
