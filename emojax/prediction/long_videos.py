"""Predicts many and long videos a few at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emojax import screen
from emojax.datasets.pipeline import window_list
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks
from emojax.datasets.window_spec import WindowSpec
from emojax.prediction.predictor import Fed, Predictions
from emojax.prediction.trained_run import TrainedRun

# The most ticks of a group of videos: one hour at 30 ticks per second.
_GROUP_TICKS = 108_000


def video_groups(
    store: Store, names: Sequence[str], spec: WindowSpec, ticks: int
) -> list[list[str]]:
    """Groups videos in order, up to ``ticks`` ticks in a group; a longer video is a group alone."""
    groups: list[list[str]] = []
    room = 0
    for name in names:
        length = count_ticks(store, store.index_of(name), spec)
        if length > room or not groups:
            groups.append([])
            room = ticks
        groups[-1].append(name)
        room -= length
    return groups


def predict_groups(
    run: TrainedRun, store: Store, names: Sequence[str]
) -> Iterator[tuple[list[str], list[Predictions]]]:
    """Predicts videos with all replicas; shows a progress bar if standard error is a terminal.

    Memory holds the predictions of one group of videos and a few batches. The videos themselves
    are not held: their pages are released batch by batch.

    Args:
        run: the run; replicas that diverged predict NaN.
        store: the store with the videos.
        names: the names of the videos.

    Yields:
        The names of a group of videos, and the predictions of each replica for them.

    Raises:
        InputError: all replicas diverged.
    """
    spec = run.session.window_spec
    predictor, placed = run.predictor(store), run.placed()
    console = screen.console(stderr=True)
    bar = Progress(
        TextColumn("predicting windows" if run.in_windows else "predicting parts"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console.quiet or not console.is_terminal,
    )
    total = len(window_list(store, names, spec, evaluation=True))
    with bar:
        task = bar.add_task("", total=total)

        def watched(feed: Iterable[Fed]) -> Iterator[Fed]:
            for fed in feed:
                yield fed
                bar.advance(task, int(fed.host[0].example_mask.sum()))
                store.release()

        for group in video_groups(store, names, spec, _GROUP_TICKS):
            videos = [group] * len(run.session.folds.keys)
            predictions = predictor.run(*placed, videos, watched(predictor.feed(videos)))
            yield group, run.without_lost(predictions)
            store.release()
