"""The tables and curves of the five papers, as data: a file a paper."""

from __future__ import annotations

from emojax.paper_tables import emma_net, exptrm, multiscale_tcn, rjcma, tcn_transformer
from emojax.paper_tables.schema import PaperTable

_MODULES = (exptrm, emma_net, rjcma, multiscale_tcn, tcn_transformer)
TABLES: dict[str, PaperTable] = {
    table.name: table for module in _MODULES for table in module.TABLES
}
