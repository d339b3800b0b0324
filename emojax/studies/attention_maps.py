"""Collects what each attention of a trained model attends to, for one video.

A map is the output of a module of one of ``KINDS``: softmax weights (``AttentionWeights``), or
RJCMA's correlations. A model of your own is covered if its attention passes through
``AttentionWeights``. Nothing of the model changes: the outputs are taken while it is traced.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from emojax.core.step import forward
from emojax.datasets.pipeline import evaluation_batches
from emojax.errors import InputError, closest
from emojax.layers.attention import AttentionWeights
from emojax.layers.fusion import Correlation
from emojax.ops.tasks import TASK_OPS
from emojax.studies.study_data import StudiedRun
from emojax.studies.study_output import StudyTable

KINDS = (AttentionWeights, Correlation)


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """The maps of one replica for one video, window by window.

    Attributes:
        video: the name of the video.
        weights: name of an attention -> (W, T, S), or (W, H, T, S) with heads, for W windows of T
            query rows and S key rows. S is less than T where a stream has fewer rows than ticks.
            LFAN attends within a frame, from stream to stream: (W, T, H, streams, streams).
        signed: names of those whose entries are correlations in [-1, 1], not weights that sum to 1.
        ticks: (W, T) the tick of each query row, -1 on padding.
        seconds: (W, T) its time in the video, NaN on padding.
        predictions: task -> (W, T, C), decoded.
    """

    video: str
    weights: dict[str, np.ndarray]
    signed: frozenset[str]
    ticks: np.ndarray
    seconds: np.ndarray
    predictions: dict[str, np.ndarray]

    def of_time(self) -> dict[str, np.ndarray]:
        """Returns the maps from time to time, heads averaged: name -> (W, T, S)."""
        maps = {name: x if x.ndim == 3 else x.mean(axis=1) for name, x in self.weights.items()}
        return {name: x for name, x in maps.items() if x.ndim == 3}

    def of_streams(self) -> dict[str, np.ndarray]:
        """Returns the maps from stream to stream, heads averaged: name -> (W, T, S, S)."""
        return {name: x.mean(axis=2) for name, x in self.weights.items() if x.ndim == 5}

    def whole(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Joins the windows of a map from time to time.

        Returns:
            (N, N) over the ticks of the video, averaged where windows overlap and NaN where no
            window holds both; a key row that covers several ticks shares its weight among them.
            And (N,) the seconds of the ticks.
        """
        window_WTS = self.of_time()[name]
        known = self.ticks >= 0
        first, count = self.ticks[known].min(), np.ptp(self.ticks[known]) + 1
        total_NN, times_NN = np.zeros((count, count)), np.zeros((count, count))
        seconds_N = np.full(count, np.nan)
        for map_TS, tick_T, second_T in zip(window_WTS, self.ticks, self.seconds, strict=True):
            span = len(tick_T) // map_TS.shape[1]
            map_TT = np.repeat(map_TS, span, axis=1) / (1 if name in self.signed else span)
            real_T = tick_T >= 0
            place = np.ix_(tick_T[real_T] - first, tick_T[real_T] - first)
            total_NN[place] += map_TT[np.ix_(real_T, real_T)]
            times_NN[place] += 1
            seconds_N[tick_T[real_T] - first] = second_T[real_T]
        with np.errstate(invalid="ignore"):
            return total_NN / np.where(times_NN, times_NN, np.nan), seconds_N


def attention_maps(studied: StudiedRun, video: str, replica: int = 0) -> AttentionMaps:
    """Runs a trained model on one video and collects its maps.

    Args:
        studied: the run.
        video: the name of a video of the studied partition; "" for one of median length.
        replica: the replica whose weights are used.

    Raises:
        InputError: the partition has no such video, or the model has no attention.
    """
    session, store = studied.run.session, studied.store
    fold = int(session.folds.members_R[replica])
    names = studied.videos[fold]
    name = _named(studied, names, video)
    weights, normalisation = studied.run.placed()
    own = jax.tree.map(lambda leaf: leaf[replica], weights)
    grouped = len(session.folds.keys) > 1
    own_normalisation = jax.tree.map(lambda x: x[fold] if grouped else x, normalisation)
    signed: set[str] = set()

    @jax.jit
    def run(batch: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        found: dict[str, Any] = {}

        def take(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            output = call(*args, **kwargs)
            if context.method_name == "__call__" and isinstance(context.module, KINDS):
                path = _shown(context.module.path)
                found[path] = output
                if isinstance(context.module, Correlation):
                    signed.add(path)
            return output

        with nn.intercept_methods(take):
            outputs, _, _ = forward(
                session.model,
                own["params"],
                own["model_state"],
                batch,
                own_normalisation,
                train=False,
            )
        return found, {task: TASK_OPS[task].decode(x) for task, x in outputs.items()}

    batches = list(
        evaluation_batches(store, [name], session.window_spec, batch_size=session.batch_size)
    )
    parts = [jax.device_get(run(batch)) for batch in batches]
    if not parts[0][0]:
        raise InputError(
            "The model has no attention to look at.",
            file=studied.run.workdir,
            field="config.model.name",
            found=session.config.model["name"],
            expected="a model whose attention passes through emojax.layers.attention",
        )
    kept = [np.asarray(batch.example_mask) for batch in batches]
    ticks = np.concatenate([np.asarray(b.frame_ids)[k] for b, k in zip(batches, kept, strict=True)])

    def joined(which: int) -> dict[str, np.ndarray]:
        return {
            key: np.concatenate([p[which][key][k] for p, k in zip(parts, kept, strict=True)])
            for key in parts[0][which]
        }

    clock = session.window_spec.clock
    pts_N = store.read(store.index_of(name)).pts_N
    seconds = ticks / clock if clock else pts_N[np.clip(ticks, 0, len(pts_N) - 1)] - pts_N[0]
    return AttentionMaps(
        video=name,
        weights=joined(0),
        signed=frozenset(signed),
        ticks=ticks,
        seconds=np.where(ticks >= 0, seconds, np.nan),
        predictions=joined(1),
    )


def video_labels(studied: StudiedRun, maps: AttentionMaps) -> dict[str, np.ndarray]:
    """Returns task -> (W, T, columns) annotations at the rows of maps, NaN where there are none."""
    session, store = studied.run.session, studied.store
    batches = evaluation_batches(
        store, [maps.video], session.window_spec, batch_size=session.batch_size
    )
    found: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        kept = np.asarray(batch.example_mask)
        for task, label in batch.labels.items():
            known = np.where(batch.label_mask[task], label, np.nan)
            found.setdefault(task, []).append(known[kept])
    return {task: np.concatenate(parts) for task, parts in found.items()}


def _shown(path: tuple[str, ...]) -> str:
    """Names a map after its module, without the "weights" that ends most paths."""
    return "/".join(path[:-1] if path[-1] == "weights" and len(path) > 1 else path)


def _named(studied: StudiedRun, names: tuple[str, ...], video: str) -> str:
    if not video:
        frames = {n: studied.store.videos[studied.store.index_of(n)].num_frames for n in names}
        return sorted(frames, key=lambda n: (frames[n], n))[len(names) // 2]
    if video not in names:
        raise InputError(
            "The partition has no such video.",
            file=studied.store.path,
            field="--video",
            found=video,
            expected=f"a video of {studied.partition}, such as {names[0]}",
            remedy=closest(video, names),
        )
    return video


def attention_table(maps: AttentionMaps, title: str) -> StudyTable:
    """Returns the table of the arrays of attention.

    Args:
        maps: the attention of one video.
        title: the title on the screen.
    """
    rows = [
        {
            "array": name,
            "shape": " x ".join(map(str, x.shape)),
            "is": "correlation" if name in maps.signed else "weight",
            "least": float(x.min()),
            "greatest": float(x.max()),
        }
        for name, x in maps.weights.items()
    ]
    caption = (
        "arrays of attention.npz: windows x (heads x) predicted row x attended row; beside them "
        "ticks and seconds of the rows, -1 and NaN on padding"
    )
    return StudyTable("attention", title, rows, None, caption)
