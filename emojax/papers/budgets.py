"""How much a published table is to cost: the papers' trainings, or narrower and shorter ones.

``paper`` trains as the configuration says. ``small`` is for two cores and simulated data (about
as the configurations' own ``simulated`` variants, without their changes of architecture), and
``tiny`` only shows that everything runs, in one layer and without dropout. Streams, fusion and what
the rows of a table differ in stay as they are. The small forms are those that each configuration
file says under ``SMALL``, see ``emojax/small.py``.
"""

from __future__ import annotations

from typing import Any

from emojax.errors import InputError
from emojax.papers.variants import Variant

PAPER, SMALL, TINY = "paper", "small", "tiny"
BUDGETS = (PAPER, SMALL, TINY)


def narrowed(variant: Variant, config: Any, budget: str) -> dict[str, Any]:
    """Returns what a budget changes in a configuration, dotted key -> value.

    Args:
        variant: of a configuration file, which says how its system is made small.
        config: made from the variant.
        budget: one of ``BUDGETS``.

    Raises:
        InputError: the file does not say how to make the system small.
    """
    if budget == PAPER:
        return {}
    if variant.small is None:
        raise InputError(
            "This system has no smaller training.",
            file=variant.file,
            field="--budget",
            found=budget,
            expected=PAPER,
            remedy=f"define SMALL in this file, as configs/rjcma.py does, or use --budget={PAPER}",
        )
    return variant.small.changes(config, tiny=budget == TINY)
