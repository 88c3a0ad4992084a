"""Text from outside: made safe to show, bounded in size."""

from __future__ import annotations

import unicodedata

from cockpit.base.limits import MAX_TEXT

_KEEP = {"\n", "\t"}
# Bidirectional controls reorder what the reader sees; show them like any other control character.
_BIDI = {chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)}


def visible(text: str, *, limit: int = MAX_TEXT, newlines: bool = False) -> str:
    """Return `text` with control characters made visible (`␛`, `\\x9b`) and cut to `limit` characters."""
    if len(text) <= limit and text.isprintable():
        return text  # nearly all text is: no control, private or bidirectional character is printable
    out: list[str] = []
    for char in text[: limit + 1]:
        code = ord(char)
        if newlines and char in _KEEP:
            out.append(char)
        elif code < 0x20:
            out.append(chr(0x2400 + code))
        elif code == 0x7F:
            out.append("␡")
        elif char in _BIDI or unicodedata.category(char) in ("Cc", "Cs", "Co"):
            out.append(f"\\x{code:02x}")
        else:
            out.append(char)
    if len(text) > limit:
        return "".join(out[: limit - 1]) + "…"
    return "".join(out)
