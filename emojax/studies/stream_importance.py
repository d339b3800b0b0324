"""Measures the fall of a run's scores without a stream, and with another video's rows in it.

"left out": all rows of the stream (or of a modality's streams) are zeros at the model's input, the
training mean if they are z-scored, with all masks left on. The model is not trained again.
"permuted": the stream's rows are those of another video of the same partition, several times
with different partners (Breiman 2001). The model then sees realistic rows that are unrelated
to the video, so that it cannot fall back on the mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.ticks import count_ticks
from emojax.datasets.transforms import row_spacing
from emojax.errors import InputError
from emojax.ops.bootstrap import interval, two_sided_p
from emojax.prediction.predictor import Predictor
from emojax.studies.missing_modality import drop_at_input
from emojax.studies.study_data import AlteredStore, StudiedRun, VideoStates

LEFT_OUT, PERMUTED = "left out", "permuted"


@dataclasses.dataclass(frozen=True)
class Importance:
    """The fall of a score.

    Attributes:
        task, score: the task and the name of the score.
        group: the name of the stream or modality.
        how: "left out" or "permuted".
        intact: the score of the run with all streams.
        altered: the score without the stream; for "permuted" the mean over shuffles.
        deviation: the deviation of ``altered`` over shuffles (n - 1); 0 for "left out".
        drop: intact - altered.
        low, high, p: interval and two-sided p of the drop, by paired bootstrap over videos.
    """

    task: str
    score: str
    group: str
    how: str
    intact: float
    altered: float
    deviation: float
    drop: float
    low: float
    high: float
    p: float


def stream_importance(
    studied: StudiedRun,
    progress: Callable[[int, int], None],
    *,
    stream_by: str = "stream",
    shuffles: int = 5,
    draws: int = 1000,
    seed: int = 0,
) -> list[Importance]:
    """Runs the study.

    Args:
        studied: the run.
        progress: called with the work done and the whole work after each prediction.
        stream_by: the unit that is altered, "stream" or "modality".
        shuffles: the number of partners of each video.
        draws: the number of draws of the bootstrap.
        seed: the seed of partners and draws.

    Raises:
        InputError: the partition has a single video, so there are no partners.
    """
    groups = studied.groups(stream_by)
    names, store = studied.videos, studied.store
    if shuffles and min(map(len, names)) < 2:
        raise InputError(
            "Permutation needs at least two videos.",
            file=store.path,
            field="--partition",
            found=f"{studied.partition}, one video",
            expected="at least two videos",
            remedy="name another --partition, or leave permutation out: --shuffles=0",
        )
    predictor, placed = Predictor(studied.run.session, store), studied.run.placed()
    total, done = 1 + len(groups) * (1 + shuffles), 0

    def scored(predictions: Any) -> VideoStates:
        nonlocal done
        progress(done := done + 1, total)
        return VideoStates(studied).add(studied.ensembles(predictions))

    intact = scored(predictor(*placed, names))
    everything = {
        store.index_of(name): np.ones(
            count_ticks(store, store.index_of(name), studied.run.session.window_spec), bool
        )
        for of_fold in names
        for name in of_fold
    }
    found = []
    for group, streams in groups.items():
        drop = drop_at_input(predictor, everything, streams)
        without = scored(predictor.run(*placed, names, predictor.feed(names), drop=drop))
        found += _compare(intact, [without], group, LEFT_OUT, draws, seed)
        exchanged = []
        for shuffle in range(shuffles):
            partners = partner_videos(studied, np.random.default_rng([seed, shuffle]))
            altered = with_rows_of(studied, partners, streams)
            exchanged.append(scored(predictor.on(altered)(*placed, names)))
        if exchanged:
            found += _compare(intact, exchanged, group, PERMUTED, draws, seed)
    return found


def _compare(
    intact: VideoStates,
    altered: Sequence[VideoStates],
    group: str,
    how: str,
    draws: int,
    seed: int,
) -> list[Importance]:
    found = []
    for task in intact.tasks:
        whole = intact.scores(task)
        each = [one.scores(task) for one in altered]
        of_intact = intact.draws(task, draws, seed)
        of_altered = [one.draws(task, draws, seed) for one in altered]
        for name in intact.names(task):
            values = [scores[name] for scores in each]
            drops = of_intact[name] - np.mean([one[name] for one in of_altered], axis=0)
            found.append(
                Importance(
                    task,
                    name,
                    group,
                    how,
                    whole[name],
                    float(np.mean(values)),
                    float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                    whole[name] - float(np.mean(values)),
                    *interval(drops),
                    two_sided_p(drops),
                )
            )
    return found


def partner_videos(studied: StudiedRun, rng: np.random.Generator) -> dict[int, int]:
    """Draws a partner for each video: video index -> index of another video of its partition.

    Every video gives its rows to exactly one other video. A video that is in the partitions of
    several folds has one partner, that of the first fold.
    """
    partners: dict[int, int] = {}
    for names in studied.videos:
        ring = rng.permutation([studied.store.index_of(name) for name in names])
        for video, partner in zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True):
            partners.setdefault(video, partner)
    return partners


def with_rows_of(
    studied: StudiedRun, partners: Mapping[int, int], streams: Sequence[str]
) -> AlteredStore:
    """Returns a store in which some streams of a video hold its partner's rows.

    The rows begin with the first frame. Rows that end too early are repeated, so that no row goes
    missing.
    """
    store = studied.store

    def alter(number: int, record: VideoRecord) -> VideoRecord:
        if number not in partners:
            return record
        partner = store.read(partners[number])
        shift = record.pts_N[0] - partner.pts_N[0]
        changed = dict(record.streams)
        for name in streams:
            changed[name] = _repeated(partner.streams[name], shift, record.streams[name])
        return dataclasses.replace(record, streams=changed)

    return AlteredStore(store, alter)


def _repeated(rows: StreamRows, shift: float, instead_of: StreamRows) -> StreamRows:
    """Moves rows in time by ``shift``, and repeats them until they last as long as the others."""
    if not len(rows.pts_N) or not len(instead_of.pts_N):
        return rows
    pts_N = rows.pts_N + shift
    spacing = row_spacing(pts_N)
    if np.isinf(spacing):
        spacing = row_spacing(instead_of.pts_N)
    period = float(pts_N[-1] - pts_N[0]) + (spacing if np.isfinite(spacing) else 1.0)
    times = max(1, int(np.ceil((instead_of.pts_N[-1] - pts_N[0]) / period)))
    if times == 1:
        return dataclasses.replace(rows, pts_N=pts_N)
    return StreamRows(
        np.tile(rows.rows_ND, (times, 1)),
        np.concatenate([pts_N + period * i for i in range(times)]),
        np.tile(rows.valid_N, times),
    )
