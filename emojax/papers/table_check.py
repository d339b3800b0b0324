"""Checks a store against the needs of a published table; names the command that simulates one."""

from __future__ import annotations

from collections.abc import Sequence

from emojax.datasets.origin import is_simulated
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.papers.budgets import PAPER, SMALL, TINY
from emojax.papers.table_plan import Recipes, places
from emojax.published.schema import PaperTable, Row
from emojax.specs import STREAMS

# Budget -> size of the simulated store, and the greatest width of a stream (0 for no limit).
_SIZES = {PAPER: ("full", 0), SMALL: ("medium", 128), TINY: ("tiny", 64)}
# Enough source videos for every scheme of folds.
_TINY_VIDEOS = 16


class Needs:
    """The streams, tasks, folds and partitions that rows of a table need in a store.

    Args:
        table: the table.
        rows: some of its rows.
        recipes: makes the recipes of their trainings.

    Attributes:
        streams, tasks, folds, partitions: the names of what the store must have.
    """

    def __init__(self, table: PaperTable, rows: Sequence[Row], recipes: Recipes) -> None:
        self._table, self._budget = table, recipes.budget
        configs = [recipes(row).config for row in rows if row.training]
        own = [row.stream for row in rows if row.stream]
        self.streams = _each([*(c["data"]["streams"] for c in configs), own])
        self.tasks = _each([c["data"]["tasks"] for c in configs])
        self.folds = _each([[one.fold] for _, one in places(table, rows)])
        self.partitions = _each([[one.partition] for _, one in places(table, rows)])

    def command(self, out: str = "STORE") -> str:
        """Returns the command that simulates a store for the table."""
        size, widest = _SIZES[self._budget]
        wide = [n for n in self.streams if widest and STREAMS[n].width > widest]
        parts = [
            f"emojax simulate --out={out} --size={size}",
            *([f"--train_videos={_TINY_VIDEOS}"] if self._budget == TINY else []),
            f"--streams={','.join(self.streams)}",
            *(f"--width={name}={widest}" for name in wide),
            f"--tasks={','.join(self.tasks or ['va'])}",
            f"--folds={self._table.scheme}",
        ]
        return " ".join(parts)

    def check(self, store: Store) -> None:
        """Refuses a store that lacks a stream, task, fold or partition.

        Raises:
            InputError: the store lacks something. The error names all of it, and the command that
                simulates a suitable store.
        """
        lacking = {
            "stream": [name for name in self.streams if name not in store.streams],
            "task": [name for name in self.tasks if name not in store.tasks],
            "fold": [name for name in self.folds if name not in store.folds],
            "partition": [
                name
                for name in self.partitions
                if any(not _videos(store, fold, name) for fold in self.folds if fold in store.folds)
            ],
        }
        missing = [
            f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
            for kind, names in lacking.items()
            if names
        ]
        if missing:
            raise InputError(
                f"The store lacks data that {self._table.name} needs.",
                file=store.path,
                field="--store",
                found="no " + "; no ".join(missing),
                expected=f"streams {', '.join(self.streams) or 'of any kind'}; tasks "
                f"{', '.join(self.tasks) or 'of any kind'}; folds {', '.join(self.folds) or 'any'}",
                remedy="build a store that has them, name fewer rows with --only, or simulate "
                f"one:\n{' ' * 12}{self.command()}",
            )


def scheme_note(table: PaperTable, store: Store, folds: Sequence[str]) -> str:
    """Returns a note if the store's folds follow another scheme than the table's, else ""."""
    train, validation = (set(store.partitions[part]) for part in ("train", "validation"))
    rest = [store.folds[name] for name in folds if name != "0"]
    fits = {
        "emma": all({*f.train, *f.validation} <= train for f in rest),
        "tcn_transformer": all({*f.train, *f.validation} == train | validation for f in rest),
        "rjcma": all(_contiguous(f.validation, store.partitions["train"]) for f in rest),
    }
    if fits.get(table.scheme, True):
        return ""
    return (
        f"The store's folds {', '.join(f.name for f in rest)} follow another scheme than this "
        f"table's (--folds={table.scheme} of the builders)."
    )


def _contiguous(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Returns True if ``part`` is a run of neighbours in ``whole``, in the same order."""
    if not part or part[0] not in whole:
        return False
    start = list(whole).index(part[0])
    return list(whole[start : start + len(part)]) == list(part)


def data_name(store: Store) -> str:
    """Returns the data set's name, with a mark if the data are simulated."""
    return f"{store.name} (SIMULATED DATA)" if is_simulated(store.metadata) else store.name


def _videos(store: Store, fold: str, partition: str) -> Sequence[str]:
    """Returns ``evaluation.partition_videos``, or an empty list where that refuses."""
    parts = store.folds[fold]
    shared = store.partitions.get("test", ()) if partition == "test" else ()
    return getattr(parts, partition) or shared


def _each(lists: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
