"""One HTML page that tells a run's results and needs nothing beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from emojax.errors import InputError

Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; background: #fff;
       max-width: 1000px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .5rem; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p.note { margin: .3rem 0; color: #4a5058; white-space: pre-line; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #e4e7eb; }
th { border-bottom: 2px solid #9aa1a9; font-weight: 600; }
th.text, td.text { text-align: left; }
th:first-child, td:first-child { padding-left: .2rem; }
tbody tr:hover { background: #f5f7f9; }
figure { margin: 1.4rem 0; }
figure img { max-width: 100%; border: 1px solid #e4e7eb; border-radius: 4px; }
figcaption { color: #4a5058; font-size: .9rem; }
"""


def _cell(value: object) -> str:
    """Three decimals for a real number, a dash for nothing, else the value's own text."""
    if value is None:
        return "–"
    return html.escape(f"{value:.3f}" if isinstance(value, float) else str(value))


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    columns = zip(*rows, strict=True) if rows else [() for _ in header]
    kinds = [" class='text'" * all(isinstance(v, str) for v in column) for column in columns]
    head = "".join(
        f"<th scope='col'{kind}>{html.escape(name)}</th>"
        for name, kind in zip(header, kinds, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f"<h2>{html.escape(caption)}</h2>\n<div class='wide'><table>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _picture(path: Path) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise InputError(
            "A picture of the report cannot be read.",
            file=path,
            found=error.strerror,
            expected="a PNG file",
            remedy="draw the pictures before the report",
        ) from error
    name = html.escape(path.stem)
    return (
        f"<figure><img alt='{name}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{name}</figcaption></figure>"
    )


def write_report(
    path: str | Path,
    *,
    title: str,
    tables: Sequence[Table] = (),
    pictures: Sequence[str | Path] = (),
    notes: Sequence[str] = (),
) -> None:
    """Writes a self-contained HTML page: notes, tables, then pictures.

    Pictures are embedded and all text is escaped, so the file can be mailed and opened offline.
    The page is written beside its name and renamed, so a kill leaves no half page.

    Args:
        path: the HTML file to write; folders are made.
        title: heads the page.
        tables: (caption, header, rows) each; floats are shown with three decimals, None as a
            dash; columns of text alone are aligned left.
        pictures: PNG files, captioned with their names.
        notes: paragraphs under the title.

    Raises:
        ValueError: a row is not as long as its header.
        InputError: a picture cannot be read.
    """
    for caption, header, rows in tables:
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"table {caption!r}: a row is not as long as the header {header}")
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p class='note'>{html.escape(note)}</p>" for note in notes]
    parts += [_table(*table) for table in tables]
    parts += ["<h2>Pictures</h2>"] if pictures else []
    parts += [_picture(Path(picture)) for picture in pictures]
    body = "\n".join(parts)
    page = (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
