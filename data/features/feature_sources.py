"""Features that users bring, stream by stream: one ``FeatureSource`` per --features flag.

    NAME=PATH[,option=value...]

    form=npy|npz|frames|csv|parquet|hdf5|mat|safetensors|hog|merbench|pickle
                         detected where that is unambiguous
    clock=frame|annotated|stretch|pts|fps:25|hop:10ms   what row i is about
    offset=0.5s          added to the times of pts, fps and hop; offset=first lets each video begin
                         with its first row
    columns=AU*_r+pose_R?   columns of tables, by name
    face=0               the face_id that counts, not the identity, face or track seen most
    first=0|1            number of the first frame
    time=COLUMN, unit=s|ms|us   timestamps of tables; the unit may be told or proven
    header=yes|no        the first line of a table names the columns; asked for where that is open
    split=COLUMN         each value of this column of a table is a video of its own
    empty=drop           leave out columns that are empty in the first table
    key=NAME             array of an .npz, .h5, .mat or .safetensors file, or element of a tuple
    reduce=flatten|mean:1|squeeze   how a row with several axes becomes a vector
    missing=zeros        rows of zeros mean that nothing was found
    width=512, modality=visual, rate=100   what the stream is; else known, told or inferred
    resample=nearest|linear|mean   to ``rate``, or else to the frames

A missing row is not valid and holds zeros; it is neither left out nor filled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.record import StreamRows
from emojax.datasets.store_checks import check_name
from emojax.errors import InputError
from emojax.specs import STREAMS, StreamSpec

from .clock_checks import check_frame_step, compare_ends, mark_gaps
from .forms import finish_rows, open_form
from .options import MODALITIES, FeatureOptions, parse_options
from .resampling import RESAMPLERS
from .rounding import Rounding
from .row_clocks import CLOCKS, Clock, VideoFrames, check_times, parse_clock, place
from .rows import RawRows, count_of
from .table_form import Tables
from .time_units import check_wall_clock

__all__ = ["FeatureRows", "FeatureSource", "VideoFrames", "parse_features"]

_MEASURED_VIDEOS = 16  # of which rounding to float16 is measured before a store is written

_SAME_RATE = 0.01  # rates that differ by less are the same, rounded to few digits


@dataclasses.dataclass(frozen=True)
class FeatureRows:
    """The features of one video.

    Attributes:
        stream: float16 or float32 rows on the video's clock, zeros where not valid.
        file: file or folder read.
        found: rows in the file or files.
        expected: rows that the clock calls for; None for clocks of their own (pts, fps, hop).
        how: phrases for the report of mismatches: "one row per frame, last 2 frames without".
        numbered: the file names the frame of each row; such rows may have gaps and end early,
            rows in order may not.
        off: frames by which rows with a clock of their own end too late or too early.
        warnings: phrases of ``how`` that the user must see.
    """

    stream: StreamRows
    file: Path
    found: int
    expected: int | None
    how: str
    numbered: bool = False
    off: int = 0
    warnings: tuple[str, ...] = ()


class FeatureSource:
    """One stream of features on disk; the module lists the options of a flag.

    Args:
        options: the options of the flag.
        pickles: accept a pickle.

    Attributes:
        spec: the specification of the stream, its width read from the first video.
        clock: the clock of the rows.

    Raises:
        InputError: nothing is there, the first video is malformed, or something that must be
            declared is not.
    """

    def __init__(self, options: FeatureOptions, *, pickles: bool = False) -> None:
        self._options = options
        self._form = open_form(options, pickles=pickles)
        self._last: tuple[str, RawRows] | None = None
        self._check_options()
        self.clock = self._clock()
        first = next(iter(self._form.files))
        raw = self._read(first)
        self.spec = self._make_spec(raw, self._form.files[first])

    def videos(self) -> list[str]:
        """Returns the names of videos with features, sorted."""
        return list(self._form.files)

    def span(self, name: str) -> tuple[int | None, float | None]:
        """Returns the length that a video must have for its features.

        Args:
            name: one of ``videos``.

        Returns:
            The number of frames if a row is a frame, else None; and the seconds until the last
            row if rows have times, else None.

        Raises:
            InputError: the file is malformed.
        """
        raw = self._read(name)
        count = raw.found if raw.index_N is None else int(raw.index_N[-1]) + 1
        if self.clock.kind == "frame":
            return count, None
        if self.clock.kind == "pts" and raw.pts_N is not None:
            return None, float(raw.pts_N.max()) + self.clock.offset
        if self.clock.kind == "step":
            return None, (count - 1) * self.clock.step + self.clock.offset
        return None, None

    def rounding(self) -> Rounding:
        """Measures what float16 would cost, by the rows of some videos spread over all.

        Raises:
            InputError: a file is malformed.
        """
        names, rounding = self.videos(), Rounding()
        for name in names[:: -(-len(names) // _MEASURED_VIDEOS)]:
            raw = self._read(name)
            rounding.add(raw.rows_ND[raw.valid_N])
        return rounding

    def rows(self, video: VideoFrames) -> FeatureRows | None:
        """Returns the stream of one video, or None if it has no features.

        Rows that hold NaN or infinity are not valid, and ``how`` says how many they are.

        Raises:
            InputError: the file is malformed, has another width than the stream, does not fit
                the clock, or has no finite row at all.
        """
        check_name(video.name, "video name")
        check_name(video.source_video, f"source video of {video.name}")
        name = video.name if video.name in self._form.files else video.source_video
        if name not in self._form.files:
            return None
        file, raw = self._form.files[name], self._read(name)
        if raw.rows_ND.shape[1] != self.spec.width:
            raise self._wrong_width(raw, file, self.spec.width, "as in the first video")
        if self.clock.kind == "frame":
            check_frame_step(raw, video, file)
        method = self._options.resample
        placed = place(raw, self.clock, video, file, method or "nearest")
        notes = [*placed.notes, *raw.notes]
        stream = placed.stream
        off, warnings = 0, tuple[str, ...]()
        if not self.clock.per_frame:
            off, warnings = compare_ends(stream.pts_N, stream.valid_N, self.clock, video, file)
            if isinstance(self._form, Tables) and raw.valid_N.all() and raw.found > 2:
                stream = mark_gaps(stream, float(np.median(np.diff(stream.pts_N))))
        if not stream.valid_N.any():
            warnings += ("no valid row",)
        elif not stream.rows_ND.any():
            warnings += ("zero in all rows",)
        if name == next(iter(self._form.files)):
            warnings += self._form.told()
        notes += warnings
        warnings += raw.warnings
        if method and self.clock.kind != "stretch":
            stream = self._resampled(stream, video, method)
            target = "the frames" if self.spec.rate is None else f"{self.spec.rate:g} Hz"
            notes.append(f"{method} at {target}")
        numbered = raw.index_N is not None
        how = ", ".join(notes)
        return FeatureRows(stream, file, raw.found, placed.expected, how, numbered, off, warnings)

    def _read(self, name: str) -> RawRows:
        """Reads a video's rows, finite where valid, and keeps the last, which is read twice."""
        if self._last is None or self._last[0] != name:
            raw = finish_rows(self._form.read(name), self._options)
            if raw.pts_N is not None and self._options.offset == "first" and raw.found:
                raw = dataclasses.replace(raw, pts_N=raw.pts_N - raw.pts_N[0])
            if raw.pts_N is not None and not self.clock.per_frame:
                check_times(raw.pts_N, self._form.files[name])
                column = self._options.time or "timestamps"
                check_wall_clock(raw.pts_N, self.clock.offset, self._form.files[name], column)
            self._last = name, _finite(raw, self._form.files[name])
        return self._last[1]

    def _resampled(self, stream: StreamRows, video: VideoFrames, method: str) -> StreamRows:
        target_M = video.pts_N
        if self.spec.rate is not None:
            start, end = float(target_M[0]), float(target_M[-1])
            # The small addend keeps the last instant in spite of rounding.
            count = int((end - start) * self.spec.rate + 1e-6) + 1
            target_M = start + np.arange(count) / self.spec.rate
        rows_MD, valid_M = RESAMPLERS[method](
            stream.rows_ND, stream.pts_N, stream.valid_N, target_M
        )
        return StreamRows(rows_MD, target_M, valid_M)

    def _check_options(self) -> None:
        given, form = self._options, self._form
        values = {
            "columns": given.columns,
            "face": given.face,
            "first": given.first,
            "time": given.time,
            "unit": given.unit,
            "header": given.header,
            "split": given.split,
            "empty": given.empty,
            "key": given.key,
            "reduce": given.reduce,
            "missing": given.missing,
            "offset": given.offset,
        }
        for option, value in values.items():
            if value not in ("", None, ()) and option not in form.options:
                raise InputError(
                    "An option does not go with this form of features.",
                    file=given.path,
                    field=given.flag,
                    found=f"{option}=",
                    expected="options " + ", ".join(sorted(form.options)),
                    remedy="leave it out, or declare another form",
                )

    def _clock(self) -> Clock:
        given = self._options
        text = given.clock or self._form.clock()
        if not text:
            raise InputError(
                "The clock of the rows of features is unknown.",
                file=given.path,
                field=given.flag,
                found="no clock",
                expected=", ".join(CLOCKS),
                remedy="declare it, for instance clock=frame (a row per video frame)",
            )
        at_first = given.offset == "first"
        clock = parse_clock(text, "" if at_first else given.offset, given.flag)
        if at_first and clock.kind != "pts":
            raise self._useless("offset=first", "timestamps, clock=pts")
        if (given.time or given.unit) and clock.kind != "pts":
            raise self._useless("time= and unit=", "clock=pts")
        if clock.kind == "stretch" and given.resample == "mean":
            raise self._useless("resample=mean", "nearest or linear with clock=stretch")
        return clock

    def _make_spec(self, raw: RawRows, file: Path) -> StreamSpec:
        given = self._options
        known = STREAMS.get(given.name)
        width = raw.rows_ND.shape[1]
        if given.width is not None and width != given.width:
            raise self._wrong_width(raw, file, given.width, "as declared")
        if given.width is None and known and width != known.width:
            raise self._wrong_width(raw, file, known.width, f"as {given.name} has")
        modality = given.modality or (known.modality if known else "")
        if not modality:
            raise InputError(
                "A stream of this name is not known, so it needs a modality.",
                file=file,
                field=given.flag,
                found=given.name,
                expected="modality=" + " or ".join(MODALITIES),
                remedy="add it, or use a known name: " + ", ".join(STREAMS),
            )
        return StreamSpec(given.name, width, modality, self._rate(raw, known))

    def _rate(self, raw: RawRows, known: StreamSpec | None) -> float | None:
        given, clock = self._options, self.clock
        native = 1 / clock.step if clock.kind == "step" else None
        native = None if native is None else round(native, 6)
        if given.resample and clock.kind != "stretch":
            return given.rate if given.rate is not None or known is None else known.rate
        if clock.kind == "pts":
            steps = np.diff(raw.pts_N) if raw.pts_N is not None else np.zeros(0)
            median = float(np.median(steps)) if len(steps) else 0.0
            inferred = round(1 / median, 3) if median > 1e-6 else None
            return given.rate if given.rate is not None else inferred
        if given.rate is not None and (
            native is None or abs(native - given.rate) > _SAME_RATE * given.rate
        ):
            raise self._useless(f"rate={given.rate:g}", "a rate beside resample= or clock=pts")
        return native

    def _wrong_width(self, raw: RawRows, file: Path, width: int, why: str) -> InputError:
        return InputError(
            "Features have the wrong width.",
            file=file,
            field=f"stream {self._options.name}",
            found=f"{raw.rows_ND.shape[1]} columns",
            expected=f"{width} columns, {why}",
            remedy="check which extractor wrote them; width=D declares another width than usual, "
            "and columns= chooses columns of tables",
        )

    def _useless(self, found: str, expected: str) -> InputError:
        return InputError(
            "Options of features contradict each other.",
            file=self._options.path,
            field=self._options.flag,
            found=found,
            expected=expected,
            remedy="leave one of them out",
        )


def parse_features(flags: Sequence[str], *, allow_pickle: bool = False) -> list[FeatureSource]:
    """Opens the features that --features flags name; see the module.

    Args:
        flags: "NAME=PATH[,option=value...]", one per stream.
        allow_pickle: accept pickles, see ``data.features.restricted_pickle``.

    Raises:
        InputError: a flag is malformed, a stream is named twice, or see ``FeatureSource``.
    """
    sources: list[FeatureSource] = []
    for options in [parse_options(flag) for flag in flags]:
        if any(source.spec.name == options.name for source in sources):
            raise InputError(
                "Two flags name one stream.",
                field=options.flag,
                found=options.name,
                expected="a name for each stream",
                remedy="give one of them another name, with its modality",
            )
        sources.append(FeatureSource(options, pickles=allow_pickle))
    return sources


def _finite(raw: RawRows, file: Path) -> RawRows:
    """Returns the same rows, with rows of NaN or infinity not valid.

    Raises:
        InputError: all rows hold NaN or infinity.
    """
    finite_N = np.isfinite(raw.rows_ND).all(axis=1)
    if finite_N.all():
        return raw
    if not finite_N.any():
        raise InputError(
            "No row of features is finite.",
            file=file,
            field="rows",
            found=f"NaN or infinity in all of {raw.found} rows",
            expected="numbers; a row that is missing may hold NaN, but not every row",
            remedy="extract the features of this video again, or remove its file",
        )
    bad = int((raw.valid_N & ~finite_N).sum())
    notes = (f"{count_of(bad, 'row')} with NaN or infinity",) if bad else ()
    return dataclasses.replace(raw, valid_N=raw.valid_N & finite_N, notes=raw.notes + notes)
