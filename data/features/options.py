"""The text of one --features flag, checked: ``NAME=PATH,option=value,...``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from emojax.datasets.store_checks import check_known, check_name
from emojax.errors import InputError

from .resampling import RESAMPLERS

MODALITIES = ("visual", "audio", "text", "pose", "physiology")


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """One flag; an option that was not given is empty or None.

    Attributes:
        name: the name of the stream.
        path: folder or file with the features.
        form: the form of the files.
        clock: "frame", "hop:10ms" and so on, see ``data.features.row_clocks``.
        offset: time added to the rows' times, "0.5s".
        columns: patterns of table columns.
        face: the face_id that counts.
        first: number of the first frame, 0 or 1.
        time: table column of timestamps.
        unit: the unit of timestamps, "s", "ms" or "us".
        header: "yes" or "no", the first line of a table names its columns.
        split: column of a table that names the video of each row.
        empty: "drop" leaves out columns that are empty in the first table.
        key: array of an .npz file, or element of a pickled tuple.
        reduce: "flatten", "mean:1" and so on, see ``data.features.rows.as_rows``.
        missing: "zeros" if a row of zeros means that nothing was found, or "none".
        width: columns that there must be.
        modality: the modality of the stream.
        rate: rows per second, declared, or to resample to.
        resample: method, see ``data.features.resampling``.
        flag: the text, for messages.
    """

    name: str
    path: Path
    form: str
    clock: str
    offset: str
    columns: tuple[str, ...]
    face: int | None
    first: int | None
    time: str
    unit: str
    header: str
    split: str
    empty: str
    key: str
    reduce: str
    missing: str
    width: int | None
    modality: str
    rate: float | None
    resample: str
    flag: str


def parse_options(flag: str) -> FeatureOptions:
    """Reads one flag.

    Raises:
        InputError: a name, an option or a value is wrong.
    """
    name, _, rest = flag.partition("=")
    path, *parts = rest.split(",")
    if not name or not path:
        raise InputError(
            "A flag of features names a stream and where it is.",
            field=f"--features={flag}",
            found=flag,
            expected="NAME=PATH[,option=value...]",
            remedy="for instance --features=ir50=features/ir50,clock=frame",
        )
    check_name(name, f"stream name of --features={flag}")
    given: dict[str, str] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        check_known([option], _CHECKS, "option", f"--features={flag}")
        if not equals or not value or option in given:
            raise _wrong(flag, option, part, "the option once, with a value")
        if not _CHECKS[option](value):
            raise _wrong(flag, option, value, _EXPECTED[option])
        given[option] = value
    return FeatureOptions(
        name=name,
        path=Path(path).expanduser(),
        form=given.get("form", ""),
        clock=given.get("clock", ""),
        offset=given.get("offset", ""),
        columns=tuple(given["columns"].split("+")) if "columns" in given else (),
        face=_whole(given, "face"),
        first=_whole(given, "first"),
        time=given.get("time", ""),
        unit=given.get("unit", ""),
        header=given.get("header", ""),
        split=given.get("split", ""),
        empty=given.get("empty", ""),
        key=given.get("key", ""),
        reduce=given.get("reduce", ""),
        missing=given.get("missing", ""),
        width=_whole(given, "width"),
        modality=given.get("modality", ""),
        rate=float(given["rate"]) if "rate" in given else None,
        resample=given.get("resample", ""),
        flag=f"--features={flag}",
    )


def _whole(given: Mapping[str, str], option: str) -> int | None:
    return int(given[option]) if option in given else None


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: bool(re.fullmatch(pattern, text, re.ASCII))


_ANYTHING = _matches(r".+")
_CHECKS: dict[str, Callable[[str], bool]] = {
    "form": _ANYTHING,
    "clock": _ANYTHING,
    "offset": _ANYTHING,
    "columns": _matches(r"[^+]+(\+[^+]+)*"),
    "face": _matches(r"\d{1,6}"),
    "first": _matches("[01]"),
    "time": _ANYTHING,
    "unit": _matches("s|ms|us"),
    "header": _matches("yes|no"),
    "split": _ANYTHING,
    "empty": _matches("drop"),
    "key": _ANYTHING,
    "reduce": _matches(r"flatten|squeeze|mean:[1-9](\+[1-9])*"),
    "missing": _matches("zeros|none"),
    "width": _matches(r"[1-9]\d{0,6}"),
    "modality": MODALITIES.__contains__,
    "rate": lambda text: _matches(r"\d{1,6}(\.\d{1,9})?")(text) and float(text) > 0,
    "resample": RESAMPLERS.__contains__,
}
_EXPECTED = {
    "columns": "patterns joined by +, such as AU*_r+pose_R?",
    "face": "a face_id",
    "first": "0 or 1",
    "unit": "s, ms or us",
    "header": "yes or no",
    "empty": "drop",
    "reduce": "flatten, mean:1 or mean:1+2",
    "missing": "zeros or none",
    "width": "a number of columns",
    "modality": ", ".join(MODALITIES),
    "rate": "rows per second",
    "resample": ", ".join(RESAMPLERS),
}


def _wrong(flag: str, option: str, found: str, expected: str) -> InputError:
    return InputError(
        "An option of features has a wrong value.",
        field=f"{option} in --features={flag}",
        found=found,
        expected=expected,
        remedy="options follow the path, parted by commas; a path holds no comma",
    )
