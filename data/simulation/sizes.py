"""The options of a simulation, their sizes and their checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from emojax.datasets.folds import parse_scheme
from emojax.datasets.store_checks import check_known
from emojax.errors import InputError
from emojax.specs import STREAMS, StreamSpec

from .presets import PRESETS
from .processes import SIMULATED

# Size -> videos by partition, shortest and longest video in seconds.
SIZES: dict[str, tuple[dict[str, int], tuple[float, float]]] = {
    "tiny": ({"train": 8, "validation": 2, "test": 2}, (4.0, 16.0)),
    "demo": ({"train": 120, "validation": 24, "test": 16}, (6.0, 50.0)),
    "medium": ({"train": 200, "validation": 40, "test": 40}, (8.0, 200.0)),
    "full": ({"train": 356, "validation": 76, "test": 162}, (8.0, 900.0)),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a simulation.

    Attributes:
        preset: a key of ``PRESETS``.
        videos: partition -> number of videos.
        seconds: shortest and longest video; lengths are log-uniform between.
        streams: specifications, keys of ``STREAMS`` perhaps with another width.
        tasks: some of ``SIMULATED``.
        seed: non-negative.
        folds: a number of blocks, or a scheme of ``emojax.datasets.folds.make_folds``; None
            for 6, or 1 where there are too few training sources.
        dtype: the dtype of stored features.
    """

    preset: str
    videos: dict[str, int]
    seconds: tuple[float, float]
    streams: tuple[StreamSpec, ...]
    tasks: tuple[str, ...]
    seed: int = 0
    folds: int | str | None = None
    dtype: str = "float16"


def make_options(
    *,
    preset: str = "plain",
    size: str = "demo",
    videos: dict[str, int | None] | None = None,
    min_seconds: float | None = None,
    max_seconds: float | None = None,
    streams: Sequence[str] = ("ir50", "vggish", "bert"),
    tasks: Sequence[str] = SIMULATED,
    widths: Sequence[str] = (),
    seed: int = 0,
    folds: int | str | None = None,
    dtype: str = "float16",
) -> Options:
    """Makes options from a size and from changes to it.

    Args:
        preset, size: keys of ``PRESETS`` and ``SIZES``.
        videos: partition -> number of videos, None for the size's.
        min_seconds, max_seconds: lengths, None for the size's.
        streams, tasks: names.
        widths: "STREAM=D" each.
        seed, folds, dtype: as in ``Options``.

    Raises:
        InputError: a name is unknown, or a number is out of range.
    """
    check_known([preset], PRESETS, "preset", "--preset")
    check_known([size], SIZES, "size", "--size")
    check_known(streams, STREAMS, "stream", "--streams")
    check_known(tasks, SIMULATED, "task", "--tasks")
    _require(len(streams) > 0, "--streams", "nothing", "at least one stream")
    _require(len(tasks) > 0, "--tasks", "nothing", "at least one task")
    _require(0 <= seed < 2**32, "--seed", seed, "0 to 2**32 - 1")
    if isinstance(folds, str):
        parse_scheme(folds)
    else:
        _require(folds is None or folds >= 1, "--folds", folds, "at least 1")

    counts, (shortest, longest) = SIZES[size]
    counts = counts | {part: n for part, n in (videos or {}).items() if n is not None}
    for part, count in counts.items():
        _require(count >= (part == "train"), f"--{part}_videos", count, "a number of videos")
    shortest = shortest if min_seconds is None else min_seconds
    longest = longest if max_seconds is None else max_seconds
    _require(
        math.isfinite(longest) and 0.2 <= shortest <= longest,
        "--min_seconds, --max_seconds",
        f"{shortest:g}, {longest:g}",
        "0.2 <= min_seconds <= max_seconds",
    )

    width = dict(_parse_width(text, streams) for text in widths)
    specs = tuple(
        dataclasses.replace(STREAMS[name], width=width.get(name, STREAMS[name].width))
        for name in dict.fromkeys(streams)
    )
    modalities = {spec.modality for spec in specs}
    _require(len(modalities) <= 5, "--streams", ", ".join(sorted(modalities)), "5 modalities")
    _require(
        not PRESETS[preset].crossed or {"visual"} < modalities,
        "--streams",
        ", ".join(sorted(modalities)),
        f"two modalities or more for preset {preset}, one of them visual",
    )
    ordered = tuple(task for task in SIMULATED if task in tasks)
    return Options(preset, counts, (shortest, longest), specs, ordered, seed, folds, dtype)


def _require(condition: bool, field: str, found: object, expected: str) -> None:
    if not condition:
        raise InputError(
            "An option of the simulation has a wrong value.",
            field=field,
            found=found,
            expected=expected,
        )


def _parse_width(text: str, streams: Sequence[str]) -> tuple[str, int]:
    name, _, number = text.partition("=")
    _require(number.isdecimal() and int(number) > 0, "--width", text, "STREAM=D, as in ir50=64")
    check_known([name], streams, "stream", "--width")
    return name, int(number)
