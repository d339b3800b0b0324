"""Tables as people's tools write them: text and Parquet, read into names and cells.

``read_table`` gives a ``Table`` of text cells, and ``Table.numbers`` and ``Table.times`` convert
columns.
"""
