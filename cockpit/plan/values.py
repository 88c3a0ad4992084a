"""Value types of the plan: durations, windows, secret references, image references."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHORTEST = 0.001
"""Seconds: what Prometheus, and whoever else is told of it, counts in."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(value: object) -> float:
    """Read `30m`, `1h30m`, `5s` or a number of seconds as seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a duration is written like 30s, 5m or 1h30m")
    if isinstance(value, (int, float)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{value!r} is not a duration; write it like 30s, 5m or 1h30m")
        return float(value)
    text = value.strip().replace(" ", "")
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration; write it like 30s, 5m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("must be longer than nothing")
    if seconds < _SHORTEST:
        raise ValueError("must be a millisecond at least")
    return seconds


Seconds = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds; written in a plan as `30s`, `5m`, `1h30m` or a number."""

PositiveSeconds = Annotated[Seconds, AfterValidator(_positive)]


class Strict(BaseModel):
    """Frozen, and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(Strict):
    """A release window in UTC; `end` is after `start`."""

    start: datetime
    end: datetime

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        # Seed section 1 writes it as `2025-09-23 08:00 → 12:00`.
        if isinstance(value, str):
            left, arrow, right = value.replace("->", "→").partition("→")
            if not arrow:
                raise ValueError("write the window as `2025-09-23 08:00 → 12:00` (UTC)")
            start = _moment(left.strip())
            right = right.strip()
            if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", right):
                end = _moment(f"{start:%Y-%m-%d} {right}")
                if end <= start:  # past midnight
                    end += timedelta(days=1)
            else:
                end = _moment(right)
            return {"start": start, "end": end}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("window times need a zone; seed section 1 gives UTC")
        if self.end <= self.start:
            raise ValueError(f"the window ends ({self.end}) before it starts ({self.start})")
        return self

    def contains(self, moment: datetime) -> bool:
        """Tell whether `moment` lies in [start, end)."""
        return self.start <= moment < self.end


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write it like 2025-09-23 08:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class SecretRef(Strict):
    """A reference to a secret, `env:NAME` or `file:PATH`; the value is read at use and never stored."""

    ref: str

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            kind, colon, rest = value.partition(":")
            if kind not in ("env", "file") or not colon or not rest:
                raise ValueError(
                    "a secret is referenced as env:NAME or file:PATH, never written into the plan"
                )
            return {"ref": value}
        return value

    def read(self, base: Path) -> str:
        """Return the secret; raises LookupError when it is not there. Relative files start at `base`."""
        kind, _, rest = self.ref.partition(":")
        if kind == "env":
            if rest not in os.environ:
                raise LookupError(f"environment variable {rest} is not set")
            return os.environ[rest]
        path = base / rest
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise LookupError(f"cannot read {rest}: {error.strerror}") from None


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageRef(Strict):
    """An image reference, taken apart; `digest` is empty when it is only tagged (policy refuses that)."""

    text: str

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _shape(self) -> ImageRef:
        _, at, digest = self.text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise ValueError("an image digest is sha256: and 64 hexadecimal digits")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", self.text):
            raise ValueError(f"{self.text!r} is not an image reference")
        return self

    @property
    def digest(self) -> str:
        """Return `sha256:…`, or nothing for a mutable reference."""
        return self.text.partition("@")[2]

    @property
    def repository(self) -> str:
        """Return the repository within the registry, e.g. `intelgraph/web`."""
        name = self.text.partition("@")[0].partition("/")[2]
        return name.partition(":")[0]

    @property
    def reference(self) -> str:
        """Return the digest, or the tag (`latest` when there is none)."""
        return self.digest or self.text.rpartition("/")[2].partition(":")[2] or "latest"
