"""Reads a page of the report as a browser would, for tests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = ("meta", "img", "input", "br", "link")


class Page(HTMLParser):
    """Checks that every tag is closed, and collects the content of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.rows: list[list[list[str]]] = []
        self.style = ""
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")
        elif tag == "table":
            self.rows.append([])
        elif tag == "tr":
            self.rows[-1].append([])
        elif tag in ("td", "th"):
            self.rows[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.open]
        if "script" in inside:
            self.scripts[-1] += data
        elif "style" in inside:
            self.style += data
        else:
            self.text += data
        if {"td", "th"} & set(inside):
            self.rows[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def table(self, **facts: str) -> list[list[str]]:
        """Returns the rows of the table with these ``data-`` attributes, including its header."""
        (rows,) = [
            rows
            for rows, given in zip(self.rows, self.all("table"), strict=True)
            if all(given.get(f"data-{name}") == value for name, value in facts.items())
        ]
        return rows

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def check_closed(self) -> None:
        """Nothing is loaded, and only the page's own script and style may act."""
        for tag, attributes in self.tags:
            assert tag not in ("link", "iframe", "object", "embed", "base", "form")
            for name, value in attributes.items():
                assert not name.startswith("on")
                assert name != "style"
                if name in ("src", "href"):
                    assert (value or "").startswith(("#", "data:image/png;base64,"))
        assert not re.search(r"@import|url\(", self.style)
        assert [attributes.get("type") for attributes in self.all("script")] == [
            "application/json",
            None,
        ]
        (policy,) = [
            str(attributes["content"])
            for attributes in self.all("meta")
            if attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for code in (self.scripts[1], self.style):
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
