"""Defines a published table: rows, columns, published numbers, and the training of a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Training:
    """The training that belongs to a row.

    Attributes:
        config: a file of ``configs/`` without its ending, and a variant after a colon: "rjcma:l3".
        overrides: dotted keys of the configuration -> other values.
    """

    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: the heading in the paper.
        scores: names of scores, of which the first that the row's task has is shown. Empty if
            the row names them.
        fold, partition: the videos that are scored, if they differ from those of row and table.
        missing: the stream whose frames go missing, see ``Row.share``.
        published: True if the paper has this column.
    """

    title: str
    scores: tuple[str, ...] = ()
    fold: str = ""
    partition: str = ""
    missing: str = ""
    published: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        label: the label; it is unique in the table.
        published: the paper's number for each published column, or None.
        training: the training of emojax; None for rows that are only published.
        facts: the texts under the headings ``PaperTable.facts``.
        scores, fold, partition: as in ``Column``, for tables whose rows differ in them.
        note: a sentence to print below the table.
        stream: a stream of the store whose width the row shows; such a row has no training.
        versus: the label of the row that this one is tested against.
        daggers: the titles of the columns where the paper calls the difference significant.
        pretrained: further data that the published network was trained on; "" for none.
        x: the position of the row on the table's curve.
        share: the share of the frames of ``Column.missing`` that go missing, 0 to 1; None if
            the table is not of that study.
    """

    label: str
    published: tuple[float | None, ...] = ()
    training: Training | None = None
    facts: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    fold: str = ""
    partition: str = ""
    note: str = ""
    stream: str = ""
    versus: str = ""
    daggers: tuple[str, ...] = ()
    pretrained: str = ""
    x: float | None = None
    share: float | None = None

    @property
    def ours(self) -> bool:
        """Returns True if emojax has numbers for this row."""
        return self.training is not None or bool(self.stream)


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table or curve of a paper.

    Attributes:
        name: the name in emojax, such as "rjcma.3".
        paper: the authors and the year.
        title: the title in the paper, such as "Table 3".
        shows: one line about its content.
        columns, rows: the columns and rows.
        partition, fold: the videos that are scored, unless row or column name others.
        facts: the headings of the columns of text after the labels.
        label: the heading of the labels.
        scheme: the scheme of folds that the table needs, see ``emojax simulate --folds``.
        scale: the factor from scores of emojax to the paper's unit (100 for percent).
        digits: the decimals that the paper prints; None prints as many as a number has.
        notes: sentences to print below the table.
        curve: the label of the horizontal axis of a table that is drawn; "" for other tables.
    """

    name: str
    paper: str
    title: str
    shows: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    partition: str = "validation"
    fold: str = "0"
    facts: tuple[str, ...] = ()
    label: str = "Method"
    scheme: str = "official"
    scale: float = 1.0
    digits: int | None = 3
    notes: tuple[str, ...] = ()
    curve: str = ""

    def row(self, label: str) -> Row:
        """Returns the row of a label; raises KeyError if there is none."""
        return {row.label: row for row in self.rows}[label]

    def published(self, row: Row, column: Column) -> float | None:
        """Returns the paper's number, or None."""
        if not column.published or not row.published:
            return None
        titles = [other.title for other in self.columns if other.published]
        return row.published[titles.index(column.title)]


@dataclasses.dataclass(frozen=True)
class Place:
    """The run, videos and score of a number of emojax.

    Attributes:
        training: the training of the row.
        fold, partition: the videos of the store.
        scores: names of scores, of which the first that the run has is used.
        missing, share: the stream whose frames go missing, and their share; "" and 0 for none.
    """

    training: Training
    fold: str
    partition: str
    scores: tuple[str, ...]
    missing: str = ""
    share: float = 0.0


def place(table: PaperTable, row: Row, column: Column) -> Place | None:
    """Returns the place of the number in a row and column; None if it has no training."""
    scores = column.scores or row.scores
    if row.training is None or not scores:
        return None
    return Place(
        training=row.training,
        fold=column.fold or row.fold or table.fold,
        partition=column.partition or row.partition or table.partition,
        scores=scores,
        missing=column.missing,
        share=row.share or 0.0,
    )


VALENCE = Column("Valence", ("ccc_valence",))
AROUSAL = Column("Arousal", ("ccc_arousal",))
MEAN = Column("Mean", ("ccc_mean",))
