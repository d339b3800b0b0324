"""Predicting many and long videos: a few at a time, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emojax import screen
from emojax.datasets.pipeline import window_list
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.prediction.predictor import Fed, Predictions
from emojax.prediction.trained_run import TrainedRun

# Videos share batches up to so many ticks: an hour at 30 a second.
_GROUP_TICKS = 108_000


def video_groups(
    store: Store, names: Sequence[str], spec: WindowSpec, ticks: int
) -> list[list[str]]:
    """Videos in their order, as many together as have up to ``ticks``; a longer one is alone."""
    groups: list[list[str]] = []
    room = 0
    for name in names:
        length = spec.num_ticks(store.videos[store.index_of(name)])
        if length > room or not groups:
            groups.append([])
            room = ticks
        groups[-1].append(name)
        room -= length
    return groups


def predict_groups(
    run: TrainedRun, store: Store, names: Sequence[str]
) -> Iterator[tuple[list[str], list[Predictions]]]:
    """Predicts videos, each by all replicas, with a bar on standard error if it is a terminal.

    What is in memory at once are the predictions of one group of videos and a few batches, not
    the videos: their pages are given back batch by batch.

    Args:
        run: replicas that diverged predict NaN.
        store: with the videos.
        names: of the videos.

    Yields:
        The names of some videos, and the predictions of each replica for them.

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
