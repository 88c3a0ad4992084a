"""How a length of time is written in PromQL: the one place that writes it."""

from __future__ import annotations


def window_text(seconds: float) -> str:
    """Return a window as a PromQL duration: whole seconds as `8s`, else milliseconds as `1500ms`.

    PromQL knows no fractions (`2.5s` is refused). Raises ValueError below one millisecond.
    """
    milliseconds = round(seconds * 1000)
    if milliseconds < 1:
        raise ValueError(f"a window of {seconds} s is too short to ask about")
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
