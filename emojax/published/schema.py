"""Defines a published table: rows, columns, published numbers, and the training of a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Training:
    """The training that belongs to a row.

    Attributes:
        config: file of ``configs/`` without its ending, and a variant after a colon: "rjcma:l3".
        overrides: dotted keys of the configuration -> other values.
    """

    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """One number of every row.

    Attributes:
        title: as the paper heads it.
        scores: names of the score that is shown; the first that the row's task has. Empty where
            the row says it.
        fold, partition: where it is measured, if not where row or table say.
        missing: the stream that goes missing here, see ``Row.share``.
        published: whether the paper has this column.
    """

    title: str
    scores: tuple[str, ...] = ()
    fold: str = ""
    partition: str = ""
    missing: str = ""
    published: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        label: unique in its table.
        published: a number for each published column, None where the paper has none.
        training: how we get ours; None for rows that are only published.
        facts: texts under ``PaperTable.facts``.
        scores, fold, partition: as in ``Column``, for a table whose rows differ in them.
        note: said under the table.
        stream: the row is about this stream of the store: its width, and nothing trains.
        versus: label of the row that this one is tested against.
        daggers: titles of the columns where the paper calls the difference significant.
        pretrained: the data that the published network had also seen; "" for none.
        x: where the row lies on the table's curve.
        share: of the frames of ``Column.missing`` that go missing, 0 to 1; None for no study.
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
        """True if the table has numbers of ours to show."""
        return self.training is not None or bool(self.stream)


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table or curve of a paper.

    Attributes:
        name: "rjcma.3".
        paper: authors and year.
        title: as it is known in the paper ("Table 3").
        shows: in one line.
        columns, rows: what it is made of.
        partition, fold: where scores are measured, unless row or column say otherwise.
        facts: headings of the columns of text after the labels.
        label: heading of the labels.
        scheme: the scheme of folds that it needs, see ``data.synthetic --folds``.
        scale: our scores times this are in the paper's unit (100 for percent).
        digits: decimals that the paper prints; None prints as many as a number has.
        notes: what a reader has to know; said under the table.
        curve: label of the horizontal axis, for tables that are drawn; "" for none.
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
        """The row of a label; KeyError if there is none."""
        return {row.label: row for row in self.rows}[label]

    def published(self, row: Row, column: Column) -> float | None:
        """The paper's number, None where it has none."""
        if not column.published or not row.published:
            return None
        titles = [other.title for other in self.columns if other.published]
        return row.published[titles.index(column.title)]


@dataclasses.dataclass(frozen=True)
class Place:
    """The place in our results that a number comes from.

    Attributes:
        training: of the row.
        fold, partition: of the store.
        scores: the first of these that the run has.
        missing, share: of which stream how much goes missing; "" and 0 for nothing.
    """

    training: Training
    fold: str
    partition: str
    scores: tuple[str, ...]
    missing: str = ""
    share: float = 0.0


def place(table: PaperTable, row: Row, column: Column) -> Place | None:
    """Returns the place of the number of a row and column; None if nothing is trained for it."""
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
