"""Finds videos whose labels or streams are shifted in time, without a trained model.

A ridge regression from each stream to the labels is fitted on other videos. In each video its
prediction is correlated with the labels at every shift. The shift at which they agree best is the
lag of the labels behind the stream: positive where labels come later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.transforms import resample_nearest
from emojax.errors import InputError
from emojax.specs import TASKS, TaskSpec

_GROUPS = 8  # of videos; a group is predicted by a fit on the others
_MOST_COLUMNS = 256  # wider streams are projected at random, which keeps what ridge needs
_PENALTY = 1e-2  # of the ridge, for each frame, where columns have deviation 1
_BLOCK_SECONDS = 4.0  # of the bootstrap; longer than labels remember
_LEAST_BLOCKS = 4
_DRAWS = 200
# A video stands out beyond this many errors from the usual lag, if the shift fits clearly better.
_ERRORS, _GAIN, _LEAST_CORRELATION = 4.0, 3.0, 0.15


@dataclasses.dataclass(frozen=True)
class Lag:
    """The lag of one video's labels behind one stream.

    Attributes:
        video: the name of the video.
        stream: the name of the stream.
        seconds: the lag, positive where labels come later than the stream; NaN if nothing tells.
        error: its standard error in seconds.
        usual: the median lag of this stream over all videos, in seconds.
        correlation: of prediction and labels at ``usual``.
        best: at ``seconds``.
        stands_out: the lag differs from the usual one by more than chance explains.
    """

    video: str
    stream: str
    seconds: float
    error: float
    usual: float
    correlation: float
    best: float
    stands_out: bool = False


def check_lags(
    store: Store,
    task: str,
    *,
    streams: Sequence[str] = (),
    max_seconds: float = 2.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Lag]:
    """Estimates the lag of every labelled video and stream.

    Memory holds a few matrices of a stream's width, whatever the number of videos.

    Args:
        store: the store.
        task: whose labels are compared; classes count as one column each.
        streams: the streams to compare with; all by default.
        max_seconds: the largest lag that is tried.
        seed: the seed of the groups, the projection and the bootstrap.
        progress: called with videos done and videos in all, over all passes.

    Returns:
        A row for each stream and video with labels, those that stand out first.

    Raises:
        InputError: the store has no such task or stream, or too few labelled videos.
    """
    names = list(streams) or list(store.streams)
    for kind, wanted, known in (("task", [task], store.tasks), ("stream", names, store.streams)):
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"The store has no such {kind}.",
                    file=store.path,
                    field=kind,
                    found=name,
                    expected=", ".join(known),
                )
    labelled = [i for i in range(len(store)) if _is_labelled(store, i, task)]
    if len(labelled) < 4:
        raise InputError(
            "Too few videos have labels.",
            file=store.path,
            field=f"task {task}",
            found=f"{len(labelled)} labelled videos",
            expected="at least 4, because each is compared with a fit on others",
        )
    rng = np.random.default_rng(seed)
    groups = rng.permutation(len(labelled)) % min(_GROUPS, len(labelled))
    total = 3 * len(labelled) * len(names)
    lags: list[Lag] = []
    for number, name in enumerate(names):

        def told(done: int, number: int = number) -> None:
            progress(3 * len(labelled) * number + done, total)

        pairs = list(zip(labelled, groups.tolist(), strict=True))
        lags += _stream_lags(store, task, name, pairs, max_seconds, rng, told)
    return sorted(lags, key=lambda lag: (not lag.stands_out, -_sigmas(lag), lag.video))


def _stream_lags(
    store: Store,
    task: str,
    stream: str,
    pairs: Sequence[tuple[int, int]],
    max_seconds: float,
    rng: np.random.Generator,
    told: Callable[[int], None],
) -> list[Lag]:
    spec = TASKS[task]
    weights = _fit(store, spec, stream, pairs, rng, told)
    found = []
    for done, (i, group) in enumerate(pairs):
        record = store.read(i)
        predicted_NC, valid_N = weights(record, group)
        target_NC, known_NC = _targets(record.labels[task], spec)
        step = float(np.median(np.diff(record.pts_N))) if record.num_frames > 1 else 1.0
        shifts = max(int(max_seconds / step + 1e-6), 1)
        curve = _Curve.of(predicted_NC, valid_N, target_NC, known_NC, shifts, step)
        found.append((record.name, step, curve))
        told(2 * len(pairs) + done + 1)
    told_curves = [(name, step, curve) for name, step, curve in found if curve is not None]
    best = {name: curve.best() * step for name, step, curve in told_curves}
    usual = float(np.median([*best.values()])) if best else 0.0
    # Deviations of most videos from the usual lag, which slow labels alone may cause.
    spread = 1.4826 * float(np.median([abs(lag - usual) for lag in best.values()])) if best else 0.0
    lags = []
    for name, step, curve in found:
        if curve is None:
            lags.append(Lag(name, stream, np.nan, np.nan, usual, np.nan, np.nan))
            continue
        lags.append(_judge(name, stream, curve, step, usual, spread, rng))
    return lags


def _judge(
    name: str,
    stream: str,
    curve: _Curve,
    step: float,
    usual: float,
    spread: float,
    rng: np.random.Generator,
) -> Lag:
    """Compares a video's best shift with the usual one, by a bootstrap over blocks."""
    best = curve.best()
    at = int(np.clip(round(usual / step), -curve.shifts, curve.shifts)) + curve.shifts
    there = int(np.clip(round(best), -curve.shifts, curve.shifts)) + curve.shifts
    whole = curve.correlation()
    drawn = curve.draws(_DRAWS, rng)
    bests = np.array([parabola_peak(one) - curve.shifts for one in drawn])
    error = float(bests.std()) * step
    gains = drawn[:, there] - drawn[:, at]
    gain = float(whole[there] - whole[at])
    off = abs(best * step - usual)
    out = (
        off > _ERRORS * np.hypot(error, spread)
        and off > 0.75 * step
        and gain > _GAIN * float(gains.std())
        and whole[there] > _LEAST_CORRELATION
    )
    return Lag(
        name, stream, best * step, error, usual, float(whole[at]), float(whole[there]), bool(out)
    )


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Sums of prediction and labels at every shift, block by block of a video.

    Attributes:
        sums: (blocks, shifts, C, 6): number, p, y, p p, y y and p y.
        shifts: the largest shift in frames; there are 2 shifts + 1.
    """

    sums: np.ndarray
    shifts: int

    @staticmethod
    def of(
        predicted_NC: np.ndarray,
        valid_N: np.ndarray,
        target_NC: np.ndarray,
        known_NC: np.ndarray,
        shifts: int,
        step: float,
    ) -> _Curve | None:
        """Sums a video; None if it is too short or its labels are constant."""
        frames, columns = target_NC.shape
        length = max(int(_BLOCK_SECONDS / step), 1)
        blocks = frames // length
        if blocks < _LEAST_BLOCKS or frames <= 2 * shifts or not known_NC.any():
            return None
        varies_C = np.array(
            [np.ptp(target_NC[known_NC[:, c], c]) > 0 if known_NC[:, c].any() else False
             for c in range(columns)]
        )  # fmt: skip
        if not varies_C.any():
            return None
        p_NC, y_NC = predicted_NC[:, varies_C], np.where(known_NC, target_NC, 0.0)[:, varies_C]
        known = known_NC[:, varies_C]
        edges = np.linspace(0, frames, blocks + 1).astype(int)
        sums = np.zeros((blocks, 2 * shifts + 1, p_NC.shape[1], 6))
        for k, shift in enumerate(range(-shifts, shifts + 1)):
            # Frame i of the prediction beside frame i + shift of the labels.
            low, high = max(0, -shift), min(frames, frames - shift)
            p, y = p_NC[low:high], y_NC[low + shift : high + shift]
            seen = known[low + shift : high + shift] * valid_N[low:high, None].astype(np.float64)
            columns_6 = (seen, p * seen, y * seen, p * p * seen, y * y * seen, p * y * seen)
            parts = np.stack(columns_6, axis=-1)
            starts = np.clip(edges[:-1] - low, 0, high - low)
            filled = starts < np.clip(edges[1:] - low, 0, high - low)
            sums[filled, k] = np.add.reduceat(parts, starts[filled], axis=0)
        return _Curve(sums, shifts)

    def correlation(self) -> np.ndarray:
        """Returns the correlation at each shift, (shifts,), the mean over columns."""
        return _correlation(self.sums.sum(axis=0))

    def best(self) -> float:
        """Returns the shift of the largest correlation in frames, between frames by a parabola."""
        return parabola_peak(self.correlation()) - self.shifts

    def draws(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Returns correlations of resampled blocks, (count, shifts)."""
        blocks = len(self.sums)
        counts = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=count)
        drawn = np.tensordot(counts.astype(np.float64), self.sums, axes=1)
        return _correlation(drawn)


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Returns correlations from sums (..., shifts, C, 6), the mean over C: (..., shifts)."""
    n, p, y, pp, yy, py = np.moveaxis(sums, -1, 0)
    n = np.maximum(n, 1.0)
    covariance = py / n - p * y / n**2
    scale = np.sqrt(np.maximum(pp / n - (p / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    found = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    return found.mean(axis=-1)


def parabola_peak(values_K: np.ndarray) -> float:
    """Returns the place of the largest value, between the samples by a parabola through three."""
    k = int(values_K.argmax())
    if k in (0, len(values_K) - 1):
        return float(k)
    left, top, right = values_K[k - 1 : k + 2]
    bend = left - 2 * top + right
    return k + (0.5 * float((left - right) / bend) if bend < 0 else 0.0)


def _fit(
    store: Store,
    spec: TaskSpec,
    stream: str,
    pairs: Sequence[tuple[int, int]],
    rng: np.random.Generator,
    told: Callable[[int], None],
) -> Callable[[VideoRecord, int], tuple[np.ndarray, np.ndarray]]:
    """Fits a ridge for each group, on the videos of the others.

    Returns:
        A function from a video and its group to the prediction (N, C) and where the stream has
        rows, (N,) bool.
    """
    width = store.streams[stream].width
    mean_D, deviation_D = _moments(store, stream, pairs, told)
    project = None
    if width > _MOST_COLUMNS:
        project = rng.normal(size=(width, _MOST_COLUMNS)) / np.sqrt(width)

    def design(record: VideoRecord) -> tuple[np.ndarray, np.ndarray]:
        data = record.streams[stream]
        rows_ND, valid_N = resample_nearest(data.rows_ND, data.pts_N, data.valid_N, record.pts_N)
        scores_ND = (rows_ND - mean_D) / deviation_D
        scores_ND[~valid_N] = 0.0
        return scores_ND if project is None else scores_ND @ project, valid_N

    columns = min(width, _MOST_COLUMNS) + 1
    count = 1 + max(group for _, group in pairs)
    gram = np.zeros((count, columns, columns))
    moment = np.zeros((count, columns, spec.outputs))
    frames = np.zeros(count)
    for done, (i, group) in enumerate(pairs):
        record = store.read(i)
        x_ND, valid_N = design(record)
        target_NC, known_NC = _targets(record.labels[spec.name], spec)
        used_N = valid_N & known_NC.all(axis=1)
        x_ND = np.concatenate([x_ND[used_N], np.ones((int(used_N.sum()), 1))], axis=1)
        gram[group] += x_ND.T @ x_ND
        moment[group] += x_ND.T @ target_NC[used_N]
        frames[group] += len(x_ND)
        told(len(pairs) + done + 1)
    penalty = np.eye(columns)
    penalty[-1, -1] = 0.0  # not of the constant
    weights = []
    for group in range(count):
        total = gram.sum(axis=0) - gram[group]
        scale = _PENALTY * max(frames.sum() - frames[group], 1.0)
        left = total + scale * penalty + 1e-9 * np.eye(columns)
        weights.append(np.linalg.solve(left, moment.sum(axis=0) - moment[group]))

    def predict(record: VideoRecord, group: int) -> tuple[np.ndarray, np.ndarray]:
        x_ND, valid_N = design(record)
        return x_ND @ weights[group][:-1] + weights[group][-1], valid_N

    return predict


def _moments(
    store: Store, stream: str, pairs: Sequence[tuple[int, int]], told: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    count, width = 0, store.streams[stream].width
    sum_D, square_D = np.zeros(width), np.zeros(width)
    for done, (i, _) in enumerate(pairs):
        data = store.read(i).streams[stream]
        rows_ND = data.rows_ND[data.valid_N].astype(np.float64)
        count += len(rows_ND)
        sum_D += rows_ND.sum(axis=0)
        square_D += np.square(rows_ND).sum(axis=0)
        told(done + 1)
    mean_D = sum_D / max(count, 1)
    deviation_D = np.sqrt(np.maximum(square_D / max(count, 1) - mean_D**2, 0.0))
    return mean_D, np.where(deviation_D > 1e-6 * (abs(mean_D) + 1e-6), deviation_D, 1.0)


def _targets(labels_NK: np.ndarray, spec: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers to regress on, (N, C), one column a class, and their mask."""
    known_NK = np.asarray(spec.annotated(labels_NK))
    if spec.kind != "categorical":
        return labels_NK.astype(np.float64), known_NK
    hot_NC = (labels_NK == np.arange(spec.outputs)).astype(np.float64)
    return hot_NC, np.broadcast_to(known_NK, hot_NC.shape)


def _is_labelled(store: Store, i: int, task: str) -> bool:
    labels_NK = store.read(i).labels.get(task)
    return labels_NK is not None and bool(TASKS[task].annotated(labels_NK).any())


def _sigmas(lag: Lag) -> float:
    off = abs(lag.seconds - lag.usual) / max(lag.error, 1e-6)
    return float(off) if np.isfinite(off) else 0.0


def lag_lines(lags: Sequence[Lag], task: str, most: int = 10) -> list[str]:
    """Says which videos stand out, in lines for the user.

    A video whose streams all have the same odd lag has shifted labels; one of whose streams alone
    is odd has a shifted stream.

    Args:
        lags: of one task.
        task: the name of the task.
        most: the number of videos to name.
    """
    lines = []
    streams = dict.fromkeys(lag.stream for lag in lags)
    odd: dict[str, list[Lag]] = {}
    for lag in lags:
        if lag.stands_out:
            odd.setdefault(lag.video, []).append(lag)
    for video, found in [*odd.items()][:most]:
        told = ", ".join(
            f"{lag.seconds - lag.usual:+.2f} +- {lag.error:.2f} s against {lag.stream}"
            for lag in found
        )
        what = "labels" if len(found) == len(streams) or len(streams) == 1 else "labels or stream"
        if len(streams) > 2 and len(found) == 1:
            what = f"stream {found[0].stream}"
        lines.append(
            f"warning: {task}, {video}: {what} shifted? {told} (positive: labels are late)"
        )
    if len(odd) > most:
        lines.append(f"warning: {task}: {len(odd) - most} more videos stand out")
    silent = {lag.video for lag in lags if np.isnan(lag.seconds)}
    if silent:
        lines.append(
            f"note: {task}: the lag of {len(silent)} videos cannot be told: too short, or constant "
            "labels"
        )
    return lines
