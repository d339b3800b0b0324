"""The frames that a prediction depends on, of models that take sequences of any length."""

from __future__ import annotations

import dataclasses

# Collection in which layers hand their state from one part of a sequence to the next.
CARRY = "carry"


@dataclasses.dataclass(frozen=True)
class Extent:
    """Holds the answer of a model's ``extent``, for ``emojax.prediction.full_sequence``.

    Such a model gives the same prediction of a tick, in any longer sequence, as from the ticks
    ``before`` and ``after`` it alone; the sequence's own ends look like padding.

    Attributes:
        before: ticks before its own that a prediction depends on.
        after: ticks after it.
        carries: it also depends on everything earlier, through states that the model's layers
            begin with and leave behind, if the collection ``CARRY`` is mutable. Then ``before``
            and ``after`` are 0.
    """

    before: int = 0
    after: int = 0
    carries: bool = False


def tcn_extent(blocks: int, kernel_size: int, *, causal: bool) -> Extent:
    """Returns the extent of a TCN: 2 (k - 1) (2^n - 1) ticks for n blocks of kernel k."""
    ticks = 2 * (kernel_size - 1) * (2**blocks - 1)
    return Extent(before=ticks) if causal else Extent(ticks // 2, ticks // 2)
