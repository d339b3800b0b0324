"""Tables in text files: encodings, delimiters, and files with and without names of columns."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from .cell_table import Table
from .cells import number_of, uses_decimal_comma

_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_MOST_BYTES = 4 * 2**30  # of an unpacked table
_DELIMITERS = (";", "\t", "|", ",")
_TRIED_LINES = 20
_WHOLE = re.compile(r"[+-]?\d+")


def read_text_table(path: Path, header: str = "") -> Table:
    """Reads a table from a text file, which may be packed by gzip.

    Args:
        path: the file, parted by commas, semicolons, tabs, bars or spaces.
        header: "yes" or "no" if it is declared that the first line names the columns.

    Raises:
        InputError: the file cannot be read as text, has no rows, has rows of several lengths, or
            it is unknown if the first line holds names or numbers.
    """
    lines = _lines(path)
    skipped, delimiter = 0, ""
    while skipped < len(lines) and (not lines[skipped].strip() or lines[skipped][0] in "#%"):
        skipped += 1
    if skipped < len(lines) and re.fullmatch(r'"?sep=(.)"?', lines[skipped].strip("\r\n")):
        delimiter = lines[skipped].strip('"\r\n')[4]  # written for Excel
        skipped += 1
    rows, numbers = _split(path, lines[skipped:], delimiter, skipped)
    if not rows:
        raise Table(path, (), []).error("rows", "0 lines", "a table")
    headless = _is_headless(path, rows, header)
    if headless and not header:
        # NumPy writes the names of columns as a comment.
        named, _ = _split(path, [line.lstrip("#% ") for line in lines[:skipped][-1:]], delimiter, 0)
        if named and len(named[0]) == len(rows[0]) and not any(map(_starts_number, named[0])):
            rows, numbers, headless = [named[0], *rows], [skipped, *numbers], False
    if not headless and len(rows) < 2:
        raise Table(path, (), []).error("rows", "1 lines", "names of columns and at least one row")
    names = [str(i) for i in range(len(rows[0]))] if headless else rows[0]
    cells, at = (rows, numbers) if headless else (rows[1:], numbers[1:])
    names, cells = _even(Table(path, tuple(names), cells, tuple(at)))
    comma = (delimiter or delimiter_of(lines[skipped:])) != "," or len(names) == 1
    if comma:
        every = [cell for row in cells for cell in row if "," in cell or "." in cell]
        comma = any("," in cell for cell in every) and uses_decimal_comma(every)
    return Table(path, tuple(names), cells, tuple(at), comma, headless)


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise Table(path, (), []).error(
                    "size", "more than 4 GiB unpacked", "a table of one video"
                )
        text = content.decode(_encoding(content))
    except (OSError, EOFError, zlib.error) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise Table(path, (), []).error("text", found, "a readable file") from error
    except UnicodeDecodeError as error:
        raise Table(path, (), []).error(
            "text",
            f"{error.reason}, not UTF-8, at byte {error.start}",
            "UTF-8 or UTF-16 text",
            "save the table as UTF-8",
        ) from error
    return text.splitlines(keepends=True) if "\x00" not in text else _binary(path)


def _binary(path: Path) -> list[str]:
    raise Table(path, (), []).error("text", "bytes of zero", "text", "is this a table?")


def _encoding(content: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return encoding
    start = content[:200]
    # Text without a mark, of which every other byte is zero.
    if len(start) >= 4 and not any(start[1::2]) and all(start[: len(start) // 2 * 2 : 2]):
        return "utf-16-le"
    if len(start) >= 4 and not any(start[::2]) and all(start[1::2]):
        return "utf-16-be"
    return "utf-8"


def _split(
    path: Path, lines: Sequence[str], delimiter: str, skipped: int
) -> tuple[list[list[str]], list[int]]:
    """Returns the cells of each line that is not blank, and the numbers of the lines."""
    delimiter = delimiter or delimiter_of(lines)
    rows, numbers = list[list[str]](), list[int]()
    if not delimiter:
        for number, line in enumerate(lines, skipped + 1):
            if line.strip():
                rows.append(line.split())
                numbers.append(number)
        return rows, numbers
    reader, blank = csv.reader(lines, delimiter=delimiter, strict=True), list[int]()
    try:
        for cells in reader:
            # A row of empty cells is a row in which nothing was found.
            if len(cells) > 1 or "".join(cells).strip() or cells == [""]:
                rows.append([cell.strip() for cell in cells])
                numbers.append(skipped + reader.line_num)
            else:
                blank.append(skipped + reader.line_num)
    except csv.Error as error:
        where = f"text, line {skipped + reader.line_num}"
        raise Table(path, (), []).error(where, error, "cells parted by a delimiter") from error
    inside = [line for line in blank if numbers and numbers[0] < line < numbers[-1]]
    if inside and all(len(row) == 1 for row in rows):
        raise Table(path, (), []).error(
            f"line {inside[0]}",
            "a blank line in a table of one column",
            "a row, or no line at all",
            "write NaN where nothing was found",
        )
    return rows, numbers


def delimiter_of(lines: Sequence[str]) -> str:
    """Returns what parts the first lines evenly: "" for spaces, "," for a single column."""
    some = [line for line in lines[:_TRIED_LINES] if line.strip()]
    best, most = ",", 0
    for delimiter in _DELIMITERS:
        try:
            counts = {len(row) for row in csv.reader(some, delimiter=delimiter) if row}
        except csv.Error:
            continue
        least = min(counts, default=1)
        if least > 1 and max(counts) - least <= 1:
            return delimiter
        if least > most:
            best, most = delimiter, least
    counts = {len(line.split()) for line in some}
    spaces = most <= 1 and len(counts) == 1 and counts.pop() > 1
    # A single column whose name has spaces looks like cells parted by spaces.
    if spaces and all(number_of(cell) is not None for line in some[1:] for cell in line.split()):
        return ""
    return best


def _is_headless(path: Path, rows: Sequence[Sequence[str]], header: str) -> bool:
    """Returns True if the first row holds values, not names of columns."""
    if header:
        return header == "no"
    first, second = rows[0], rows[1] if len(rows) > 1 else rows[0]
    given = [cell for cell in first if cell]
    numeric = [cell for cell in given if number_of(cell) is not None and _starts_number(cell)]
    if not numeric:
        return False
    question = "header=yes, if the first line names the columns; header=no, if it is a row"
    if len(numeric) < len(given):
        # Names may be numbers beside others that are not; a fraction is hardly a name.
        fractions = [cell for cell in numeric if not _WHOLE.fullmatch(cell)]
        if not fractions:
            return False
        raise Table(path, (), []).error(
            "line 1", f"{fractions[0]!r} beside {given[0]!r}", "names of columns", question
        )
    below = [cell for cell in second if cell]
    whole = all(_WHOLE.fullmatch(cell) for cell in given)
    if not whole or (not _counts_up(given) and all(_WHOLE.fullmatch(cell) for cell in below)):
        return True
    # pandas names the columns of an array 0, 1, 2 and so on, and may leave its index without one.
    if _counts_up(given) and (not first[0] or not all(_WHOLE.fullmatch(cell) for cell in below)):
        return False
    raise Table(path, (), []).error(
        "line 1", ", ".join(given[:5]), "names of columns, or a row of numbers", question
    )


def _starts_number(cell: str) -> bool:
    return bool(re.match(r"[+-]?[.,]?\d", cell))


def _counts_up(cells: Sequence[str]) -> bool:
    return list(cells) == [str(i) for i in range(len(cells))]


def _even(table: Table) -> tuple[list[str], list[list[str]]]:
    """Returns names and cells of one length: without the ends of lines, with names of rows.

    Raises:
        InputError: rows have other lengths than the first line.
    """
    names, cells = list(table.names), table.cells
    width = len(names)
    longer = [row for row in cells if len(row) == width + 1]
    if cells and len(longer) == len(cells):
        if not any(row[-1] for row in cells):
            cells = [row[:-1] for row in cells]  # a delimiter at the end of each row
        elif [row[0] for row in cells] == [str(i + 1) for i in range(len(cells))]:
            names = ["", *names]  # R leaves the names of rows without one of their own
    for row, found in enumerate(cells):
        if len(found) != len(names):
            raise table.error(table.where(row), f"{len(found)} cells", f"{len(names)} cells")
    return names, cells
