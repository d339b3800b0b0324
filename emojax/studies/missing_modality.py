"""The missing-modality study of ExpTrm (section 5.3): scores while more and more frames go missing.

In each trial, a random share of the ticks of each video loses one modality (or one stream), either
tick by tick or in contiguous spans. A tick is a video frame, unless the run has a clock of its own
(see ``datasets.window_spec``). Rows go missing in one of two ways:

"kept": the rows are zeros at the model's input (the training mean of a z-scored stream): after
    normalisation and, in a model that stacks context (ExpTrm), after stacking. All validity masks
    stay on. This is the paper's study.
"cleared": the rows are missing in the store, as if the extractor had found nothing. They are
    filled as the run fills missing rows (``config.data.fill``), and their validity is off.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emojax.core.step import stacks
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks, counted_frames
from emojax.datasets.transforms import nearest_rows
from emojax.datasets.window_spec import WindowSpec
from emojax.prediction.predictor import Fed, Predictor
from emojax.studies.study_data import AlteredStore, StudiedRun, VideoStates
from emojax.types import Batch

KEPT, CLEARED = "kept", "cleared"
VALIDITY = (KEPT, CLEARED)

# Video index -> (ticks,) bool, True where they are dropped.
Dropped = Mapping[int, np.ndarray]


def drop_frames(
    num_ticks: int, count: int, rng: np.random.Generator, span_ticks: float
) -> np.ndarray:
    """Draws exactly ``count`` ticks without replacement, (ticks,) bool."""
    del span_ticks
    dropped_N = np.zeros(num_ticks, bool)
    dropped_N[rng.permutation(num_ticks)[:count]] = True
    return dropped_N


def drop_spans(
    num_ticks: int, count: int, rng: np.random.Generator, span_ticks: float
) -> np.ndarray:
    """Draws exactly ``count`` ticks in spans of ``span_ticks`` on average, (ticks,) bool.

    Every way to cut the dropped ticks into spans and the others into the gaps between them is
    equally likely, and so is every rotation of the result. So each tick is equally likely to be
    dropped, and a span that reaches beyond the end continues at the start. If too few ticks are
    left to separate the spans, the spans are longer.
    """
    kept = num_ticks - count
    if not count or not kept:
        return np.full(num_ticks, bool(count))
    spans = min(max(1, round(count / span_ticks)), count, kept)
    lengths_S2 = np.stack([_parts(total, spans, rng) for total in (count, kept)], axis=1)
    dropped_N = np.repeat(np.tile([True, False], spans), lengths_S2.reshape(-1))
    return np.roll(dropped_N, rng.integers(num_ticks))


def _parts(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Draws lengths of at least 1 that sum to ``total``, (parts,)."""
    cuts = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


PATTERNS: dict[str, Callable[[int, int, np.random.Generator, float], np.ndarray]] = {
    "frames": drop_frames,
    "spans": drop_spans,
}


@dataclasses.dataclass(frozen=True)
class MissingPlan:
    """The settings of the study.

    Attributes:
        shares: the shares of the ticks to drop, in [0, 1].
        trials: the number of draws for each share.
        patterns: keys of ``PATTERNS``.
        validity: some of ``VALIDITY``.
        stream_by: the unit that goes missing, "modality" or "stream".
        span_seconds: the mean length of a span.
        seed: the seed of all draws.
    """

    shares: tuple[float, ...] = tuple(i / 10 for i in range(11))
    trials: int = 10
    patterns: tuple[str, ...] = ("frames", "spans")
    validity: tuple[str, ...] = (KEPT,)
    stream_by: str = "modality"
    span_seconds: float = 2.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of the study: the modality that goes missing, and the way and the share.

    Attributes:
        group: the name of the modality or stream.
        pattern, validity, share: see ``MissingPlan``.
        trial: the number of the draw.
    """

    group: str
    pattern: str
    validity: str
    share: float
    trial: int


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """The scores of all trials with one share.

    Attributes:
        task, score: the task and the name of the score.
        group, pattern, validity, share: see ``Case``.
        values: the score of each trial; a single one if all or none of the ticks are dropped,
            because then all trials are the same.
    """

    task: str
    score: str
    group: str
    pattern: str
    validity: str
    share: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Returns the mean over trials."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Returns the standard deviation over trials (n - 1); 0 for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0


def cases(plan: MissingPlan, groups: Iterable[str]) -> list[Case]:
    """Lists the cases to predict: none for a share of 0, and a single trial for a share of 1."""
    found = []
    for group in groups:
        for validity in plan.validity:
            if 1.0 in plan.shares:
                found.append(Case(group, plan.patterns[0], validity, 1.0, 0))
            for pattern in plan.patterns:
                for share in plan.shares:
                    trials = plan.trials if 0.0 < share < 1.0 else 0
                    found += [Case(group, pattern, validity, share, t) for t in range(trials)]
    return found


def missing_modality(
    studied: StudiedRun, plan: MissingPlan, progress: Callable[[int, int], None]
) -> list[CurvePoint]:
    """Runs the study; the model is compiled twice, intact and with rows to drop.

    Args:
        studied: the run.
        plan: the settings of the study.
        progress: called with the work done and the whole work after each case.
    """
    run, session = studied.run, studied.run.session
    groups = studied.groups(plan.stream_by)
    predictor, placed = Predictor(session, studied.store), run.placed()
    intact = VideoStates(studied)
    states = {case: VideoStates(studied) for case in cases(plan, groups)}
    chunks = list(studied.chunks())
    total, done = len(chunks) * (len(states) + 1), 0
    for names in chunks:
        feed = list(predictor.feed(names))
        intact.add(studied.ensembles(predictor.run(*placed, names, feed)))
        progress(done := done + 1, total)
        for case, scored in states.items():
            dropped = _draw(studied, plan, case, names)
            predictions = _WAYS[case.validity](
                predictor, placed, names, feed, dropped, groups[case.group]
            )
            scored.add(studied.ensembles(predictions))
            progress(done := done + 1, total)
    return _points(plan, list(groups), intact, states)


def _points(
    plan: MissingPlan, groups: Sequence[str], intact: VideoStates, states: dict[Case, VideoStates]
) -> list[CurvePoint]:
    scores = {case: {t: s.scores(t) for t in s.tasks} for case, s in states.items()}
    untouched = {task: intact.scores(task) for task in intact.tasks}

    def values(task: str, name: str, group: str, pattern: str, validity: str, share: float) -> Any:
        if share == 0.0:
            return (untouched[task][name],)
        if share == 1.0:
            return (scores[Case(group, plan.patterns[0], validity, 1.0, 0)][task][name],)
        trials = (Case(group, pattern, validity, share, t) for t in range(plan.trials))
        return tuple(scores[case][task][name] for case in trials)

    return [
        CurvePoint(task, name, *where, values(task, name, *where))
        for task in intact.tasks
        for name in intact.names(task)
        for group in groups
        for pattern in plan.patterns
        for validity in plan.validity
        for share in plan.shares
        for where in [(group, pattern, validity, share)]
    ]


def _draw(
    studied: StudiedRun, plan: MissingPlan, case: Case, names: Sequence[Sequence[str]]
) -> Dropped:
    """Draws the dropped ticks of each video, independently of the other videos and cases."""
    store, spec = studied.store, studied.run.session.window_spec
    dropped = {}
    for name in {name for of_fold in names for name in of_fold}:
        number = store.index_of(name)
        num_ticks = count_ticks(store, number, spec)
        words = [name, case.group, case.pattern]
        seed = [plan.seed, case.trial, round(1e6 * case.share), *(_code(word) for word in words)]
        rate = spec.clock or store.videos[number].fps
        dropped[number] = PATTERNS[case.pattern](
            num_ticks,
            round(case.share * num_ticks),
            np.random.default_rng(seed),
            max(1.0, plan.span_seconds * rate),
        )
    return dropped


def _code(word: str) -> int:
    return zlib.crc32(word.encode())


# -- the two ways to go ------------------------------------------------------------------------


def _zeroed(
    predictor: Predictor,
    placed: tuple[Any, Any],
    names: Sequence[Sequence[str]],
    feed: Sequence[Fed],
    dropped: Dropped,
    streams: Sequence[str],
) -> Any:
    return predictor.run(*placed, names, feed, drop=drop_at_input(predictor, dropped, streams))


def drop_at_input(
    predictor: Predictor, dropped: Dropped, streams: Sequence[str]
) -> Callable[[Sequence[Batch]], Any]:
    """Returns the ``drop`` of ``Predictor.run`` that zeroes the rows of streams on dropped ticks.

    Args:
        predictor: the predictor.
        dropped: video index -> (ticks,) bool.
        streams: the names of the streams that lose rows.
    """
    spec = predictor.session.window_spec
    ahead = stacks(predictor.session.model)

    def drop(batches: Sequence[Batch]) -> Any:
        return predictor.place(
            [dropped_rows(spec, batch, dropped, streams, ahead=ahead) for batch in batches]
        )

    return drop


def dropped_rows(
    spec: WindowSpec, batch: Batch, dropped: Dropped, streams: Sequence[str], *, ahead: bool
) -> dict[str, np.ndarray]:
    """Returns stream -> (B, rows) bool for all streams of the model, so that one program serves.

    A row is dropped with its tick; a row that covers several ticks, with the middle one.

    Args:
        spec: the windows of the batch.
        batch: the batch.
        dropped: video index -> (ticks,) bool.
        streams: the names of the streams that lose rows.
        ahead: True for a model that stacks context ahead, see ``step.stacks``.
    """
    found = {}
    for name in spec.streams:
        rows, context = spec.rows(name), 0 if ahead else spec.context.get(name, 0)
        drop_BT = np.zeros((len(batch.video_ids), rows + 2 * context), bool)
        if name in streams:
            offset_T = (np.arange(-context, rows + context) + 0.5) * spec.window / rows
            for b in np.flatnonzero(batch.example_mask):
                dropped_N = dropped[int(batch.video_ids[b])]
                # The first tick of a window is one of the video, unless the window is empty; then
                # all of its rows are padding, and dropping them changes nothing.
                tick_T = np.floor(batch.frame_ids[b][0] + offset_T + 1e-6).astype(np.int64)
                inside_T = (tick_T >= 0) & (tick_T < len(dropped_N))
                drop_BT[b] = inside_T & dropped_N[np.clip(tick_T, 0, len(dropped_N) - 1)]
        found[name] = drop_BT
    return found


def _cleared(
    predictor: Predictor,
    placed: tuple[Any, Any],
    names: Sequence[Sequence[str]],
    feed: Sequence[Fed],
    dropped: Dropped,
    streams: Sequence[str],
) -> Any:
    del feed  # its rows were read before any went missing
    altered = without_rows(predictor.store, predictor.session.window_spec, dropped, streams)
    return predictor.on(altered)(*placed, names)


def without_rows(
    store: Store, spec: WindowSpec, dropped: Dropped, streams: Sequence[str]
) -> AlteredStore:
    """Returns a store without valid rows on dropped ticks; see ``drop_at_input``."""

    def alter(number: int, record: VideoRecord) -> VideoRecord:
        if number not in dropped:
            return record
        changed = dict(record.streams)
        for name in streams:
            stream = record.streams[name]
            tick_N = _row_ticks(spec, stream.pts_N, record, len(dropped[number]))
            valid_N = stream.valid_N & ~dropped[number][tick_N]
            changed[name] = dataclasses.replace(stream, valid_N=valid_N)
        return dataclasses.replace(record, streams=changed)

    return AlteredStore(store, alter)


def _row_ticks(
    spec: WindowSpec, row_pts_N: np.ndarray, record: VideoRecord, num_ticks: int
) -> np.ndarray:
    """Returns the tick nearest to each stored row."""
    if not spec.clock:
        return nearest_rows(row_pts_N, record.pts_N[counted_frames(record, spec)])
    tick_N = np.floor((row_pts_N - record.pts_N[0]) * spec.clock + 0.5).astype(np.int64)
    return np.clip(tick_N, 0, num_ticks - 1)


_WAYS: dict[str, Callable[..., Any]] = {KEPT: _zeroed, CLEARED: _cleared}
