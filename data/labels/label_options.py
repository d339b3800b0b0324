"""The text of one --labels flag, checked: ``TASK=PATH,option=value,...``.

--labels=va=annotations
--labels=expr=labels.csv,column=emotion,map=neu:Neutral+hap:Happiness
--labels=dominance=ratings.csv,kind=continuous,range=1:9

column=NAME+NAME     columns of the table, or tiers of ELAN, in the order of the task's labels
per=frame|segment|recording   what a row is about; told by its columns
video=COLUMN         column that names the video, in one table of all videos
time=, start=, end=  columns of times; unit=s|ms|us
first=0|1            number of the first frame
range=1:9            the ends of the scale, which become -1 and 1
map=WORD:CLASS+...   names of classes in the file; WORD:- is not annotated
threshold=1          a unit is present from this value on
ignore=-5            another value that means not annotated

kind=continuous|categorical|binary, classes=low+mid+high   of a task that is not emojax's own
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from emojax.datasets.store_checks import check_known
from emojax.errors import InputError
from emojax.ops.own_tasks import declare_task
from emojax.specs import TASKS, TaskSpec

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_CHECKS: dict[str, tuple[str, str]] = {
    "column": (r"[^+]+(\+[^+]+)*", "names joined by +"),
    "per": ("frame|segment|recording", "frame, segment or recording"),
    "video": (".+", "a column"),
    "time": (".+", "a column"),
    "start": (".+", "a column"),
    "end": (".+", "a column"),
    "unit": ("s|ms|us", "s, ms or us"),
    "first": ("[01]", "0 or 1"),
    "range": (f"{_NUMBER}:{_NUMBER}", "the ends of the scale, such as 1:9"),
    "map": (r"[^:+]+:[^:+]+(\+[^:+]+:[^:+]+)*", "WORD:CLASS+WORD:CLASS"),
    "threshold": (_NUMBER, "a number"),
    "ignore": (_NUMBER, "a number"),
    "header": ("yes|no", "yes or no"),
    "kind": ("continuous|categorical|binary", "continuous, categorical or binary"),
    "classes": (r"[^+]+(\+[^+]+)+", "names joined by +"),
}
_IGNORE = {"continuous": -5.0, "categorical": -1.0, "binary": -1.0}


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """One flag.

    Attributes:
        task: what is labelled; declared if it was not known.
        path: folder with a file for each video, or a file.
        given: the options as text.
        flag: the text, for messages.
    """

    task: TaskSpec
    path: Path
    given: Mapping[str, str]
    flag: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the columns that were named, or none."""
        return tuple(self.given["column"].split("+")) if "column" in self.given else ()

    @property
    def scale(self) -> tuple[float, float]:
        """Returns the ends of the scale, (-1, 1) by default."""
        low, _, high = self.given.get("range", "-1:1").partition(":")
        return float(low), float(high)

    @property
    def words(self) -> dict[str, str]:
        """Returns the names of classes in the file, small letters -> class or "-"."""
        pairs = self.given["map"].split("+") if "map" in self.given else []
        return {word.casefold(): name for word, _, name in (pair.partition(":") for pair in pairs)}

    def number(self, option: str) -> float | None:
        """Returns an option that is a number, or None."""
        return float(self.given[option]) if option in self.given else None


def parse_labels(flag: str) -> LabelOptions:
    """Reads one flag, and declares its task if that is not known.

    Raises:
        InputError: the flag is malformed, an option is unknown or wrong, or nothing is there.
    """
    name, _, rest = flag.partition("=")
    text, *parts = rest.split(",")
    where = f"--labels={flag}"
    if not name or not text:
        raise _wrong(where, flag, "TASK=PATH[,option=value...]", "such as --labels=va=annotations")
    given: dict[str, str] = {}
    for part in parts:
        option, _, value = part.partition("=")
        check_known([option], _CHECKS, "option", where)
        pattern, expected = _CHECKS[option]
        if option in given or not re.fullmatch(pattern, value):
            raise _wrong(f"{option} in {where}", value, expected)
        given[option] = value
    path = Path(text).expanduser()
    if not path.exists():
        raise InputError(
            "The labels are not there.",
            file=path,
            field=where,
            found="no such file or folder",
            expected="a folder with a file for each video, or a file",
        )
    options = LabelOptions(_task(name, given, where), path, given, where)
    low, high = options.scale
    if not low < high:
        raise _wrong(f"range in {where}", given["range"], "the lower end first")
    if "range" in given and options.task.kind != "continuous":
        raise _wrong(where, "range=", f"nothing of the kind: {name} is {options.task.kind}")
    classes = dict.fromkeys(name for name in options.words.values() if name != "-")
    check_known(classes, options.task.labels, "class", f"map in {where}")
    return options


def _task(name: str, given: Mapping[str, str], where: str) -> TaskSpec:
    if name in TASKS and "kind" not in given:
        return TASKS[name]
    kind = given.get("kind")
    if kind is None:
        raise InputError(
            "A task that is not emojax's own must be declared.",
            field=where,
            found=name,
            expected=f"one of {', '.join(TASKS)}, or kind=",
            remedy=f"for instance --labels={name}=PATH,kind=continuous",
        )
    if kind == "categorical" and "classes" not in given:
        raise _wrong(where, "no classes", "their names: classes=low+mid+high")
    labels = given.get("classes") or ("" if kind == "categorical" else given.get("column", name))
    spec = TaskSpec(name, kind, tuple(labels.split("+")), _IGNORE[kind])
    declare_task(spec)
    return spec


def _wrong(field: str, found: str, expected: str, remedy: str | None = None) -> InputError:
    return InputError(
        "A flag of labels has a wrong value.",
        field=field,
        found=found,
        expected=expected,
        remedy=remedy,
    )
