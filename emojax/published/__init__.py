"""The published numbers of the five papers, as data.

Each file holds the tables and curves of one paper; ``schema`` defines a table. This package imports
only the vocabulary (``emojax.specs``), so that configurations can read it, too.
"""

from __future__ import annotations

from emojax.published import (
    emma_net_tables,
    exptrm_tables,
    multiscale_tcn_tables,
    rjcma_tables,
    tcn_transformer_tables,
)
from emojax.published.schema import PaperTable

_PAPERS = (
    exptrm_tables,
    emma_net_tables,
    rjcma_tables,
    multiscale_tcn_tables,
    tcn_transformer_tables,
)
TABLES: dict[str, PaperTable] = {table.name: table for paper in _PAPERS for table in paper.TABLES}
