"""Budgets of a published table: the papers' trainings, or narrower and shorter ones.

``paper`` trains as the configuration says. ``small`` is for two cores and simulated data; it is
about as large as the configurations' own ``simulated`` variants, without their changes of
architecture. ``tiny`` only shows that everything runs, in one layer and without dropout. Streams,
fusion and the fields in which the rows of a table differ stay as they are. Each configuration file
defines its small forms as ``SMALL``, see ``emojax/small.py``.
"""

from __future__ import annotations

from typing import Any

from emojax.errors import InputError
from emojax.papers.variants import Variant

PAPER, SMALL, TINY = "paper", "small", "tiny"
BUDGETS = (PAPER, SMALL, TINY)


def narrowed(variant: Variant, config: Any, budget: str) -> dict[str, Any]:
    """Returns the changes of a budget to a configuration, dotted key -> value.

    Args:
        variant: a variant of a configuration file that defines ``SMALL``.
        config: the configuration made from the variant.
        budget: one of ``BUDGETS``.

    Raises:
        InputError: the file does not define ``SMALL``.
    """
    if budget == PAPER:
        return {}
    if variant.small is None:
        raise InputError(
            "This system has no small form.",
            file=variant.file,
            field="--budget",
            found=budget,
            expected=PAPER,
            remedy=f"define SMALL in this file, as configs/rjcma.py does, or use --budget={PAPER}",
        )
    return variant.small.changes(config, tiny=budget == TINY)
