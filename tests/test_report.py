"""The report: one file that needs nothing else, and shows text as text."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from emojax.errors import InputError
from emojax.reporting.static_report import write_report


class Reader(HTMLParser):
    """Collects the cells, the sources and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert not reader.open
    return reader


def test_the_page_holds_everything(tmp_path: Path) -> None:
    picture = tmp_path / "7-60.png"
    picture.write_bytes(b"\x89PNG\r\n")
    path = tmp_path / "new" / "report.html"
    write_report(
        path,
        title="RJCMA & <fold 0>",
        tables=[("Scores", ["row", "CCC"], [["ours", 0.61249], ["<script>", None], ["n", 12]])],
        pictures=[picture],
        notes=["Valence < arousal."],
    )
    text, page = path.read_text(encoding="utf-8"), read(path)
    assert page.cells == ["row", "CCC", "ours", "0.612", "<script>", "–", "n", "12"]
    (source,) = page.links
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == b"\x89PNG\r\n"
    assert "RJCMA &amp; &lt;fold 0&gt;" in text
    assert "Valence &lt; arousal." in text
    assert not re.search(r"https?:|<script|@import|url\(", text)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", title="nothing yet")
    assert read(tmp_path / "report.html").cells == []


def test_a_ragged_table_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Scores"):
        write_report(tmp_path / "r.html", title="", tables=[("Scores", ["a", "b"], [["1"]])])
    assert not list(tmp_path.iterdir())


def test_a_missing_picture_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_report(tmp_path / "r.html", title="", pictures=[tmp_path / "none.png"])
    assert caught.value.details["file"] == str(tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
