"""What the tests read from a page of the report, as a browser would."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag


class Page(HTMLParser):
    """Links, anchors, elements, attributes that run code, scripts, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)

    @classmethod
    def of(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.scripts += [""] * (tag == "script")
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        self.anchors |= {value for name, value in attrs if name == "id" and value}
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def broken(path: Path) -> list[str]:
    """Links of a page that lead to no file, or to an anchor that the file does not have."""
    found = []
    for link in Page.of(path).links:
        address, anchor = urldefrag(link)
        target = (path.parent / unquote(address)).resolve() if address else path
        if not target.exists() or (anchor and anchor not in Page.of(target).anchors):
            found.append(link)
    return found
