r"""Builds a simulated Aff-Wild2 with a known optimum.

    emojax simulate --out=stores/demo --preset=plain --size=demo
    emojax simulate --out=stores/full --preset=switching --size=full --tasks=va

The data have the difficulties of the real ones: spans without a face, silence, unannotated gaps,
``_left`` / ``_right`` pairs, 24 to 30 fps with dropped frames, streams at rates and delays of
their own, modalities that become unreliable, videos shorter than a window, row counts that differ
from frame counts. Unlike the real ones they have a best possible answer, the exact posterior of
every label given all rows (``data.simulation.optimum``). It is stored as the reference "optimum",
and its scores are printed. For valence and arousal the reference is the posterior mean moved to the
labels' mean and variance on the training partition, the best predictor under CCC. With preset
``cross_cued`` it is told delays and reliabilities that a predictor has to find out, which makes it
an upper bound; ``data.simulation.bounds`` makes a lower one, .02 below in CCC.

Time on 2 cores: demo about 15 seconds, full (594 videos, about 3 M frames, 8.3 GB) about
4 and a half minutes.
Memory: one batch of videos and the posteriors (88 bytes a frame), 0.6 GB and 2 GB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.datasets.folds import (
    Fold,
    class_counts,
    make_folds,
    official_and_blocks,
)
from emojax.datasets.record import PARTITIONS, StreamRows, VideoRecord
from emojax.datasets.store import StoreWriter
from emojax.ops.metrics import Moments, moments
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

from .builder import define_store_flags, is_tenth, report_store
from .simulation.draws import generator
from .simulation.optimum import posteriors
from .simulation.presets import PRESETS
from .simulation.processes import SIMULATED, Video, draw_clock, simulate
from .simulation.sensors import Sensor, embed, make_sensor
from .simulation.sizes import SIZES, Options, make_options

REFERENCE = "optimum"
_BATCH = 8  # videos smoothed together; more take more memory and are hardly faster


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A build: its sensors and every video's (partition, index), in the order of the store."""

    options: Options
    sensors: tuple[Sensor, ...]
    videos: tuple[tuple[str, int], ...]

    def simulate(self, video: int) -> Video:
        options = self.options
        return simulate(
            options.seed,
            PRESETS[options.preset],
            self.sensors,
            options.tasks,
            *self.videos[video],
            options.seconds,
        )


def build(
    out: str, options: Options, *, overwrite: bool = False, say: Callable[[str], None] = print
) -> dict[str, dict[str, dict[str, float]]]:
    """Simulates, computes the optimum and writes the store.

    Args:
        out: folder to create.
        options: see ``make_options``.
        overwrite: replace a store that is there already.
        say: called with lines of progress and, at the end, of the optimum's scores.

    Returns:
        partition -> task -> score name -> the optimum's official score on its annotated frames.

    Raises:
        InputError: a stream is too narrow for the tasks, or the target exists.
    """
    plan = _make_plan(options)
    builder = {
        "command": "data.synthetic",
        **dataclasses.asdict(options),
        "delay_seconds": {s.spec.name: s.delay for s in plan.sensors},
        "gain": {s.spec.name: s.gain for s in plan.sensors},
        "process": dataclasses.asdict(PRESETS[options.preset]),
        "references": {
            REFERENCE: "exact posterior given all valid rows, their reliability and their delay; "
            "va: posterior mean moved to the labels' mean and variance on the training partition, "
            "the best predictor under CCC"
        },
    }
    writer = StoreWriter(
        out,
        name=f"synthetic-{options.preset}",
        streams=options.streams,
        tasks=options.tasks,
        dtype=options.dtype,
        description="Simulated Aff-Wild2 with a known optimum; not measured on anyone.",
        builder=builder,
        overwrite=overwrite,
    )
    with writer:
        optimum = _rescale_va(plan, _all_posteriors(plan, say))
        states: dict[str, dict[str, Any]] = {part: {} for part in PARTITIONS}
        described, classes = [], {}
        for number, (partition, _) in enumerate(plan.videos):
            video = plan.simulate(number)
            writer.add(_record(plan, video, optimum[number]))
            described.append((video.name, video.source_video, partition))
            if "expr" in options.tasks:
                classes[video.name] = class_counts(video.labels["expr"], TASKS["expr"])
            for task in options.tasks:
                labels_NK = video.labels[task]
                mask_NK = labels_NK != TASKS[task].ignore
                state = TASK_OPS[task].state(
                    optimum[number][task].astype(np.float64), labels_NK.astype(np.float64), mask_NK
                )
                known = states[partition].get(task)
                states[partition][task] = known.merge(state) if known else state
            _progress(say, "written", number + 1, len(plan.videos))
        writer.finish(_folds(options, described, classes))
    scores = {
        part: {task: TASK_OPS[task].summarise(state) for task, state in by_task.items()}
        for part, by_task in states.items()
        if by_task
    }
    for line in _table(options, scores):
        say(line)
    return scores


def _folds(
    options: Options, videos: list[tuple[str, str, str]], classes: dict[str, np.ndarray]
) -> list[Fold]:
    if isinstance(options.folds, str):
        return make_folds(options.folds, videos, seed=options.seed, classes=classes or None)
    sources = {source for _, source, part in videos if part == "train"}
    folds = options.folds or (6 if len(sources) >= 5 else 1)
    return official_and_blocks(videos, k=folds, seed=options.seed)


def _make_plan(options: Options) -> _Plan:
    # Seeded by the stream's name, so that a stream does not depend on the others.
    preset = PRESETS[options.preset]
    cues = preset.cues(len({spec.modality for spec in options.streams}))
    sensors = tuple(
        make_sensor(
            spec,
            options.tasks,
            generator(options.seed, "sensor", spec.name),
            cues=cues,
            marks=preset.marks,
        )
        for spec in options.streams
    )
    videos = tuple((part, i) for part in PARTITIONS for i in range(options.videos.get(part, 0)))
    return _Plan(options, sensors, videos)


def _all_posteriors(plan: _Plan, say: Callable[[str], None]) -> list[dict[str, np.ndarray]]:
    """Computes task -> (N, outputs) float32 of every video, in batches of similar length."""
    options = plan.options
    frames = [draw_clock(options.seed, *video, options.seconds)[-1].size for video in plan.videos]
    order = np.argsort(frames, kind="stable")
    batch = min(_BATCH, len(order))
    result: list[dict[str, np.ndarray]] = [{}] * len(order)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        values = posteriors(
            [plan.simulate(i) for i in chosen],
            PRESETS[options.preset],
            plan.sensors,
            options.tasks,
            batch=batch,
        )
        for i, by_task in zip(chosen, values, strict=True):
            result[i] = {task: v_NC.astype(np.float32) for task, v_NC in by_task.items()}
        _progress(say, "optimum computed", start + len(chosen), len(order))
    return result


def _rescale_va(plan: _Plan, optimum: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Moves posterior means to the labels' mean and variance on the training partition."""
    if "va" not in plan.options.tasks:
        return optimum
    state = Moments.empty(TASKS["va"].outputs)
    for number, (partition, _) in enumerate(plan.videos):
        if partition == "train":
            labels_N2 = plan.simulate(number).labels["va"].astype(np.float64)
            prediction_N2 = optimum[number]["va"].astype(np.float64)
            annotated_N2 = labels_N2 != TASKS["va"].ignore
            state = state.merge(moments(prediction_N2, labels_N2, annotated_N2))
    if not np.all(state.m2_x):  # nothing to match: no annotated training frame
        return optimum
    scale_2 = np.sqrt(state.m2_y / state.m2_x)
    shift_2 = state.mean_y - scale_2 * state.mean_x
    return [
        by_task | {"va": (scale_2 * by_task["va"] + shift_2).astype(np.float32)}
        for by_task in optimum
    ]


def _record(plan: _Plan, video: Video, optimum: dict[str, np.ndarray]) -> VideoRecord:
    options = plan.options
    streams = {}
    for sensor in plan.sensors:
        name = sensor.spec.name
        rows = video.rows[name]
        rng = generator(options.seed, video.name, name, "outside")
        white = PRESETS[options.preset].white
        rows_ND = embed(sensor, rows.code_NQ, rows.valid_N, white, rng)
        streams[name] = StreamRows(rows_ND, rows.pts_N, rows.valid_N)
    return VideoRecord(
        name=video.name,
        source_video=video.source_video,
        partition=video.partition,
        pts_N=video.pts_N,
        streams=streams,
        labels=video.labels,
        references={REFERENCE: optimum},
        attributes={"fps": f"{video.fps:.6g}"},
    )


def _progress(say: Callable[[str], None], what: str, done: int, total: int) -> None:
    """Says one line about every tenth of the work."""
    if is_tenth(done, total):
        say(f"{what}: {done} of {total} videos")


def _table(options: Options, scores: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = [f"The optimum's scores, preset {options.preset}, on each partition's annotated frames"]
    for task in options.tasks:
        names = [n for n in TASK_OPS[task].score_names if n.startswith(("ccc", "f1_m", "acc"))]
        for part, by_task in scores.items():
            values = "  ".join(f"{n} {by_task[task][n]:.3f}" for n in names)
            lines.append(f"  {part:<11}{task:<5}{values}")
    return lines


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define_store_flags(define)
    define.string("preset", "plain", f"One of {', '.join(PRESETS)}.")
    define.string("size", "demo", f"One of {', '.join(SIZES)}.")
    for part in PARTITIONS:
        about = f"Videos in {part}, instead of --size's."
        define.integer(f"{part}_videos", None, about)
    define.float("min_seconds", None, "Shortest video, instead of --size's.")
    define.float("max_seconds", None, "Longest video, instead of --size's.")
    define.list("streams", ["ir50", "vggish", "bert"], "Streams to simulate.")
    define.list("tasks", list(SIMULATED), "Tasks to label.")
    define.multi_string("width", [], "STREAM=D, a width other than the papers'")
    define.integer("seed", 0, "Every number in the store follows from it.")
    define.string(
        "folds",
        None,
        "A number, official, blocks:K (stratified by expression), emma, tcn_transformer or rjcma; "
        "by default 6, or 1 if sources are too few.",
    )


def main(given: flags.FlagValues) -> None:
    """Builds the store that the flags describe."""
    jax.config.update("jax_platforms", "cpu")  # small sequential scans; an accelerator only waits
    options = make_options(
        preset=given.preset,
        size=given.size,
        videos={part: given[f"{part}_videos"].value for part in PARTITIONS},
        min_seconds=given.min_seconds,
        max_seconds=given.max_seconds,
        streams=given.streams,
        tasks=given.tasks,
        widths=given.width,
        seed=given.seed,
        folds=int(given.folds) if (given.folds or "").isdecimal() else given.folds,
        dtype=given.dtype,
    )
    cli.use_devices(jax.devices())
    build(given.out, options, overwrite=given.overwrite, say=cli.say)
    report_store(given.out)


COMMAND = cli.Command(main, define_flags, summary="data.synthetic")

if __name__ == "__main__":
    COMMAND.run()
