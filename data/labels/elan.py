"""Reads the tiers of ELAN's annotation files (.eaf), which hold segments in milliseconds."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

from emojax.errors import InputError

_MOST_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of a tier: seconds from the beginning of the recording, and its text."""

    start: float
    end: float
    text: str


def read_eaf(path: Path) -> dict[str, list[Segment]]:
    """Returns the segments of each tier that lie on the time line.

    Tiers whose segments belong to those of other tiers take the other's times.

    Raises:
        InputError: the file cannot be read, is no ELAN file, or has a segment without times.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _damaged(path, "size", "more than 256 MiB", "annotations of one recording")
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, "contents", error.strerror, "a readable file") from error
    # A document that defines entities could grow without bound, or name other files.
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", content):
        raise _damaged(path, "contents", "a document type", "plain XML, as ELAN writes it")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise _damaged(path, "contents", error, "XML") from error
    if root.tag != "ANNOTATION_DOCUMENT":
        raise _damaged(path, "contents", f"<{root.tag}>", "<ANNOTATION_DOCUMENT>")
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise _damaged(path, "TIME_UNITS", units, "milliseconds")
    slots = {
        slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE")
        for slot in root.iterfind("TIME_ORDER/TIME_SLOT")
    }
    spans: dict[str | None, tuple[float, float]] = {}
    tiers: dict[str, list[Segment]] = {}
    waiting: list[tuple[str, str | None, str | None, str]] = []
    for tier in root.iterfind("TIER"):
        name = tier.get("TIER_ID", "")
        tiers[name] = []
        for one in tier.iter("ALIGNABLE_ANNOTATION"):
            times = [slots.get(one.get(f"TIME_SLOT_REF{i}")) for i in (1, 2)]
            if not all(time is not None and time.isdecimal() for time in times):
                where = f"tier {name}, annotation {one.get('ANNOTATION_ID')}"
                raise _damaged(path, where, "no time", "segments with times")
            start, end = (int(time or 0) / 1000 for time in times)
            spans[one.get("ANNOTATION_ID")] = start, end
            tiers[name].append(Segment(start, end, _text(one)))
        for one in tier.iter("REF_ANNOTATION"):
            waiting.append((name, one.get("ANNOTATION_ID"), one.get("ANNOTATION_REF"), _text(one)))
    while waiting:
        found = [one for one in waiting if one[2] in spans]
        if not found:
            raise _damaged(
                path, f"tier {waiting[0][0]}", "a segment without a parent", "its parent"
            )
        for name, own, parent, text in found:
            spans[own] = spans[parent]
            tiers[name].append(Segment(*spans[parent], text))
        waiting = [one for one in waiting if one not in found]
    return tiers


def _text(annotation: ElementTree.Element) -> str:
    return (annotation.findtext("ANNOTATION_VALUE") or "").strip()


def _damaged(path: Path, field: str, found: object, expected: str) -> InputError:
    return InputError(
        "An ELAN file cannot be read.",
        file=path,
        field=field,
        found=found,
        expected=expected,
        remedy="save it again with ELAN",
    )
