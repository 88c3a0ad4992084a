"""Text from outside inside a Markdown document: never markup, never a mention, never a comment."""

from __future__ import annotations

import re

from cockpit.base.limits import MAX_TEXT
from cockpit.base.text import visible

_MARKUP = re.compile(r"([\\`*_\[\]|~])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_BREAK = "\u200b"
"""A space of no width: forges look for mentions after entities are resolved, so only this breaks them."""
_LINE_MARK = re.compile(r"^(\s*\d*)([#+=.)-])", re.MULTILINE)


def escaped(text: str, *, limit: int = MAX_TEXT, newlines: bool = False) -> str:
    """Return `text` as it is to be read: controls visible, markup, mentions, references and HTML inert."""
    return _LINE_MARK.sub(r"\1\\\2", _inline(visible(text, limit=limit, newlines=newlines)))


def cell(text: str, *, limit: int = 300) -> str:
    """Return `text` for the middle of a line, such as a table's cell: escaped, on one line."""
    return _inline(visible(text, limit=limit)) or "–"


def _inline(text: str) -> str:
    shown = _MARKUP.sub(r"\\\1", text.translate(_ENTITIES))
    shown = shown.replace("@", f"@{_BREAK}").replace("://", f":{_BREAK}//")
    return re.sub(r"(?i)(#|gh-)(?=\d)", rf"\1{_BREAK}", shown)
